"""Figure of `maedfer bench`: floor, ours and the plain way, for every piece of work."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maedfer_lab.figures.style import GREY, INTERPOLATION, MODEL, drawing, together

SIDES = {
    "floor": ("floor", "#d4d4d4", ""),
    "ours": ("ours", MODEL, ""),
    "plain": ("written plainly", INTERPOLATION, "///"),
}
TITLES = {
    "model": "models: time as a multiple of the matrix products' own",
    "data": "clips for training: one core's time for each",
    "evaluation": "test set: time per video",
    "waiting": "what people wait for",
    "gpu": "on a GPU: time per clip",
}
AXES = {
    "model": "time / time of the products alone (floor)",
    "data": "milliseconds",
    "evaluation": "seconds",
    "waiting": "seconds",
    "gpu": "milliseconds",
}
UNITS = {"model": 1.0, "data": 1e3, "evaluation": 1.0, "waiting": 1.0, "gpu": 1e3}
BAR = 0.27  # of the room of a row
ROW, HEAD, FOOT = 0.42, 0.75, 0.95  # inches


@drawing("bench_gpu", quoted=True)
@drawing("bench", quoted=True)
def draw_bench(figure: Figure, data: dict[str, Any]) -> str:
    """Bars of every section that was measured; the length of a text tells its seconds."""
    sections = {name: [row for row in data["rows"] if row["section"] == name and _has_bar(row)]
                for name in TITLES}  # fmt: skip
    sections = {name: rows for name, rows in sections.items() if rows}
    longer = _ratios(data["rows"])
    columns = [[n for n in ("model",) if n in sections],
               [n for n in ("data", "evaluation", "waiting", "gpu") if n in sections]]  # fmt: skip
    columns = [column for column in columns if column]
    heights = [[HEAD + ROW * len(sections[name]) for name in column] for column in columns]
    if longer and columns and columns[0] == ["model"]:
        columns[0].append("frames")
        heights[0].append(2.4)
    tall = max((sum(column) for column in heights), default=2.0)
    figure.set_size_inches(6.2 * max(1, len(columns)), tall + FOOT)
    parts = figure.subfigures(1, max(1, len(columns)), squeeze=False)[0]
    for part, column, ratios in zip(parts, columns, heights, strict=False):
        axes = part.subplots(len(column), 1, height_ratios=ratios, squeeze=False)[:, 0]
        for axis, name in zip(axes, column, strict=True):
            if name == "frames":
                _frames(axis, longer)
            else:
                _bars(axis, name, sections[name])
    handles, labels = parts[0].axes[0].get_legend_handles_labels() if columns else ([], [])
    known = dict(zip(labels, handles, strict=True))
    for axis in (axis for part in parts for axis in part.axes):
        known |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(known.values(), known.keys(), loc="outside upper center", ncols=4)
    source = data["provenance"]
    smoke = (
        " Smoke mode: tiny models, the times say nothing." if source["profile"] == "smoke" else ""
    )
    return (
        f"Medians of rounds in which floor, ours and plain take turns; thin lines: quartiles. "
        "Times at the bars. Plain: written as in the official code, floor: what cannot be saved. "
        f"{source['machine']}; {source['device']}; PyTorch "
        f"{source['versions']['torch']}; {together('commit', source['commit'])}; "
        f"{together('seed', source['seed'])}.{smoke}"
    )


def _has_bar(row: dict[str, Any]) -> bool:
    """Rows without a floor or a plain way have a bar among the waits alone."""
    if row["section"] in ("waiting", "gpu"):  # others would dwarf what people look at
        return row["name"] != "import torch" and row["item"] != "step"
    return row["floor"] is not None or row["plain"] is not None


def _bars(axis: Axes, section: str, rows: list[dict[str, Any]]) -> None:
    """Three thin bars a row, each with its time; models in units of their floor."""
    longest = 0.0
    for place, row in enumerate(rows):
        scale = 1 / row["floor"]["median"] if section == "model" else UNITS[section]
        present = [side for side in SIDES if row[side] is not None]
        for k, side in enumerate(present):
            name, colour, hatch = SIDES[side]
            median, (low, high) = row[side]["median"], row[side]["quartiles"]
            y = place + (k - (len(present) - 1) / 2) * BAR
            axis.barh(y, median * scale, BAR * 0.92, color=colour, hatch=hatch,
                      edgecolor="white", linewidth=0, label=name)  # fmt: skip
            axis.plot([low * scale, high * scale], [y, y], color="black", linewidth=0.8)
            end = max(median, high) * scale
            longest = max(longest, end)
            words = _time(median)
            if section == "model" and side != "floor":
                words = f"x {median * scale:.2f} ({words})"
            axis.annotate(words, (end, y), (3, 0), textcoords="offset points", va="center",
                          fontsize=7.5)  # fmt: skip
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8.5)
    axis.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, longest * 1.22), title=TITLES[section],
             xlabel=AXES[section])  # fmt: skip
    axis.tick_params(axis="y", length=0)
    if section == "model":
        axis.axvline(1, color=GREY, linewidth=0.8, zorder=0)


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _ratios(rows: list[dict[str, Any]]) -> dict[int, float]:
    """LGI-B's forward time over ViT-B's by the number of frames, where both were measured."""
    ours = {row["name"]: row["ours"]["median"] for row in rows}
    found = {}
    for frames in (16, 32, 64):
        what = "float32" if frames == 16 else f"{frames} frames"
        lgi, vit = (ours.get(f"{name}-B forward, {what}", math.nan) for name in ("LGI", "ViT"))
        if not math.isnan(lgi / vit):
            found[frames] = lgi / vit
    return found if len(found) > 1 else {}


def _frames(axis: Axes, ratios: dict[int, float]) -> None:
    """How the advantage of local-global attention grows with the clip."""
    axis.plot(list(ratios), list(ratios.values()), "o-", color=MODEL)
    for frames, ratio in ratios.items():
        axis.annotate(f"{ratio:.2f}", (frames, ratio), (0, 6), textcoords="offset points",
                      ha="center", fontsize=8.5)  # fmt: skip
    axis.axhline(0.6, color=GREY, linestyle="--", linewidth=0.8)
    axis.annotate("aim at 16 frames", (max(ratios), 0.6), (0, 3), textcoords="offset points",
                  ha="right", fontsize=8, color=GREY)  # fmt: skip
    axis.set_xticks(list(ratios))
    axis.set(title="forward, float32: LGI-B's time over ViT-B's", xlabel="frames of a clip",
             ylim=(0, max(0.75, 1.2 * max(ratios.values()))))  # fmt: skip
