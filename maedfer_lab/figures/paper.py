"""Figures of notebook 09 on the tables: accuracy against cost, recalls, confusion matrices.

Narrow enough for one column of a paper. Shapes tell methods apart as well as colours do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from maedfer_lab.figures.style import GREY, MODEL, PALETTE, caption, new_figure

WIDTH = 6.4
OURS = "MAE-DFER"
VOX, KINETICS = "VideoMAE (VoxCeleb2)", "VideoMAE (Kinetics-400)"
METHODS = {OURS: (MODEL, "o"), VOX: (PALETTE[1], "s"), KINETICS: (PALETTE[2], "^")}
AREA = 0.9  # points^2 for a million parameters
UNKNOWN_AREA = 30


def draw_accuracy_flops(data: dict[str, Any]) -> Figure:
    """UAR against FLOPs with parameters as area: the paper's table, and methods up to now."""
    figure = new_figure(WIDTH, 8.2)
    top, bottom = figure.subplots(2, 1, height_ratios=[1, 1.35])
    bubbles(top, [p for p in data["then"] if p["flops"] is not None])
    top.set(title=f"2023: the paper's table ({data['dataset']})", xlim=(0, 100), ylim=(41, 66))
    bubbles(bottom, [p for p in data["now"] if p["flops"] is not None])
    beside(bottom, [p for p in data["now"] if p["flops"] is None], left=106, right=176)
    bottom.set(title="2022 to 2026", xlim=(0, 176), xticks=range(0, 101, 20), ylim=(55.6, 77.4))
    for axis in (top, bottom):
        axis.set(xlabel="GMACs for a clip (what the paper calls FLOPs)", ylabel="UAR, %")
    bottom.xaxis.set_label_coords(0.29, -0.085)
    sizes = [
        Line2D([], [], marker="o", linestyle="", color=GREY, alpha=0.6, label=f"{size}M",
               markersize=float(np.sqrt(size * AREA)))
        for size in (18, 85)
    ]  # fmt: skip
    sizes.append(Line2D([], [], marker="x", linestyle="", color=GREY, label="not printed"))
    top.legend(handles=sizes, title="parameters", loc="lower right")
    caption(
        figure,
        f"UAR on {data['dataset']} (5 folds) as printed. Area: parameters; cross: not printed; "
        "diamond: language model of 7B. Blue: MAE-DFER. In the band, ticks at the left show the "
        "UAR. Some methods tune only a part of their parameters, some also use sound or text.",
    )
    return figure


LABEL_AT = {  # offset in points and alignment where the usual place is taken
    "M3DFEL": (-6, 9, "left"),
    "DPCNet": (11, 3, "left"),
    "IAL": (11, 1, "left"),
    "NR-DFERNet": (22, 3, "left"),
    "Former-DFER": (11, -5, "left"),
    "ResNet-18+GRU": (11, 2, "left"),
    "ResNet-18+LSTM": (11, -7, "left"),
    "C3D": (-11, 0, "right"),
    "VideoMAE (VoxCeleb2)": (0, -15, "center"),
    "VideoMAE (Kinetics-400)": (0, -15, "center"),
    "SVFAP-B (reproduced)": (0, 11, "center"),
    "SVFAP-B": (0, -12, "center"),
    "DFER-CLIP": (0, -15, "center"),
}


def bubbles(axis: Axes, points: Sequence[dict[str, Any]]) -> None:
    """Methods with known FLOPs."""
    for point in points:
        _mark(axis, point, point["flops"], point["uar"])
        x, y, align = LABEL_AT.get(point["method"], (11, 0, "left"))
        axis.annotate(point["method"], (point["flops"], point["uar"]), (x, y), fontsize=7.5,
                      textcoords="offset points", va="center", ha=align)  # fmt: skip


def beside(axis: Axes, points: Sequence[dict[str, Any]], left: float, right: float) -> None:
    """Methods in a band of their own, spread so that none covers another; ticks show values."""
    axis.axvspan(left, right, color=GREY, alpha=0.1, linewidth=0)
    axis.text(left + 1, 76.6, "FLOPs not found", fontsize=8.5, va="center")
    ordered = sorted(points, key=lambda p: p["uar"])
    levels = spread([p["uar"] for p in ordered], 0.78)
    for i, (point, level) in enumerate(zip(ordered, levels, strict=True)):
        x = left + 12 + 7 * (i % 2)
        axis.plot([left, left + 3, x], [point["uar"], point["uar"], level], color=GREY,
                  linewidth=0.6)  # fmt: skip
        _mark(axis, point, x, level)
        axis.text(left + 27, level, point["method"], fontsize=7, va="center")


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Sorted values moved apart to at least `gap`, each group around its own mean."""
    groups = [[v] for v in values]
    merged = True
    while merged:
        merged = False
        for i in range(len(groups) - 1):
            low, high = groups[i], groups[i + 1]
            top = np.mean(low) + gap * (len(low) - 1) / 2
            bottom = np.mean(high) - gap * (len(high) - 1) / 2
            if top + gap > bottom + 1e-9:
                groups[i : i + 2] = [low + high]
                merged = True
                break
    return [float(np.mean(g) + gap * (i - (len(g) - 1) / 2)) for g in groups for i in range(len(g))]


def _mark(axis: Axes, point: dict[str, Any], x: float, y: float) -> None:
    colour = METHODS.get(point["method"], (GREY, ""))[0]
    size = point["params"]
    shape, area = ("x", UNKNOWN_AREA) if size is None else ("o", size * AREA)
    if size is not None and size > 1000:
        shape, area = "D", UNKNOWN_AREA
    axis.scatter(x, y, s=area, marker=shape, color=colour, alpha=0.75, linewidths=1, zorder=2)


def draw_class_recalls(data: dict[str, Any]) -> Figure:
    """Recall of each class, most frequent class on top."""
    panels = data["panels"]
    figure = new_figure(WIDTH, 8.4)
    heights = [len(panel["labels"]) for panel in panels]
    axes = figure.subplots(len(panels), 1, height_ratios=heights, sharex=True)
    for axis, panel in zip(axes, panels, strict=True):
        order = np.argsort(panel["clips"])
        names = [f"{panel['labels'][i]} ({panel['clips'][i]:,})" for i in order]
        for method in panel["methods"]:
            colour, shape = METHODS.get(method["method"], (GREY, "D"))
            values = np.array(method["recalls"])[order]
            label = method["method"] if method["method"] in METHODS else "best supervised method"
            axis.plot(values, range(len(order)), shape, color=colour, markersize=6, alpha=0.85,
                      label=label, clip_on=False)  # fmt: skip
        axis.set_yticks(range(len(order)), names, fontsize=8.5)
        best = next(m["method"] for m in panel["methods"] if m["method"] not in METHODS)
        axis.set(title=f"{panel['dataset']} (best supervised: {best})", xlim=(0, 100))
        axis.set_ylim(-0.6, len(order) - 0.4)
        axis.hlines(range(len(order)), 0, 100, color=GREY, alpha=0.25, linewidth=0.6, zorder=0)
    axes[-1].set_xlabel("recall, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    caption(
        figure,
        "Recall per class as printed, with the number of clips in the test parts; the best "
        "supervised method is that of highest UAR among rows with class columns.",
    )
    return figure


def draw_confusion(data: dict[str, Any]) -> Figure:
    """The published confusion matrices."""
    figure = new_figure(WIDTH, 8.6)
    grid = figure.add_gridspec(2, 2, height_ratios=[1, 1.75])
    places = [grid[0, 0], grid[0, 1], grid[1, :]]
    for place, matrix in zip(places, data["matrices"], strict=True):
        axis = figure.add_subplot(place)
        shares = 100 * np.array(matrix["shares"])
        axis.imshow(shares, cmap="cividis", vmin=0, vmax=100)
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                if share >= 0.5:
                    axis.text(j, i, f"{share:.0f}", ha="center", va="center", fontsize=7,
                              color="black" if share > 50 else "white")  # fmt: skip
        ticks = range(len(matrix["labels"]))
        names = [f"{n} ({c})" for n, c in zip(matrix["labels"], matrix["clips"], strict=True)]
        axis.set_yticks(ticks, names, fontsize=7.5)
        axis.set_xticks(ticks, matrix["labels"], fontsize=7.5, rotation=90)
        scores = f"UAR {matrix['uar']:.2%}, WAR {matrix['war']:.2%}"
        axis.set_title(f"{matrix['title']}\n{scores}", fontsize=9)
        axis.spines[:].set_visible(False)
    caption(
        figure,
        "MAE-DFER's final evaluations as the authors' logs print them: of the clips of a class "
        "(row, their number in brackets) the percentage called each class (column).",
    )
    return figure
