"""Figures of notebooks 08 (what pre-training gives) and 10 (which choices matter)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maedfer_lab.figures import style
from maedfer_lab.figures.style import GREY, INK, PALETTE, drawing

# Colours by what is shown, never by rank.
LOOKS = {
    ("fine-tuned", "pre-trained"): (PALETTE[0], "o", "-"),
    ("fine-tuned", "pre-trained, 4 x length"): (PALETTE[4], "D", "-"),
    ("fine-tuned", "from scratch"): (PALETTE[3], "s", "-"),
    ("fine-tuned", "small conv net"): (GREY, "^", "--"),
    ("linear probe", "pre-trained"): (PALETTE[0], "o", "-"),
    ("linear probe", "pre-trained, 4 x length"): (PALETTE[4], "D", "-"),
    ("attentive probe", "pre-trained"): (PALETTE[9], "X", "-"),
    ("kNN", "pre-trained"): (PALETTE[0], "v", ":"),
    ("linear probe", "random, frozen"): (PALETTE[1], "o", "-"),
    ("kNN", "random, frozen"): (PALETTE[1], "v", ":"),
    ("linear probe", "pixels"): (PALETTE[2], "P", "--"),
}
CHANCE = {"expression": 100 / 7, "direction": 50.0}


@drawing("08_finetune", 10.5, 11)
def draw_finetune(figure: Figure, data: dict[str, Any]) -> str:
    """UAR against labels, fine-tuned and probed; and what is confused."""
    top, middle, bottom = style.stack(figure, 3.6, 3.6, 3.4)
    probes = ("linear probe", "attentive probe", "kNN")
    for part, ways, what in ((top, ("fine-tuned",), "all parameters trained"),
                             (middle, probes, "frozen features")):  # fmt: skip
        for axis, label in zip(part.subplots(1, 2), CHANCE, strict=True):
            _curves(axis, [c for c in data["curves"] if c["label"] == label and c["how"] in ways])
            for point in data["own"]:
                if point["label"] == label and point["how"] in ways:
                    colour = LOOKS[point["how"], point["start"]][0]
                    axis.plot(point["labels"], 100 * point["uar"], "*", color=colour,
                              markersize=14, markeredgecolor=INK, zorder=5)  # fmt: skip
            axis.set(title=f"{label}, {what}", ylabel="UAR on unseen people (%)")
            axis.axhline(CHANCE[label], color=INK, linestyle=":", linewidth=1)
            if "fine-tuned" in ways:
                axis.legend(fontsize=8, loc="best")
            else:  # many curves: the legend gets a place above them
                low, high = axis.get_ylim()
                axis.set_ylim(low, high + 0.4 * (high - low))
                axis.legend(fontsize=7.5, loc="upper left", ncols=2)
    axes = bottom.subplots(1, len(data["confusions"]), sharey=True, squeeze=False)[0]
    places = range(len(data["classes"]))
    for axis, (start, matrix) in zip(axes, data["confusions"].items(), strict=True):
        counts = np.array(matrix)
        shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
        picture = axis.imshow(shares, cmap="cividis", vmin=0, vmax=100)
        axis.set(title=start, xlabel="taken for")
        axis.set_xticks(places, data["classes"], rotation=60, ha="right", fontsize=8)
        axis.set_yticks(places, data["classes"], fontsize=8)
    axes[0].set_ylabel("true class")
    bottom.colorbar(picture, ax=axes, label="share of the true class (%)", shrink=0.8)
    own = " Stars: this machine's own runs." if data["own"] else ""
    return (
        f"The committed study on drawn faces ({data['seeds']} seeds, each with other people; "
        f"docs/study.md). Means and 95 % intervals (Student's t over seeds); dotted: chance.{own} "
        "Top: the same head and steps for every start; conv net: a small supervised control. "
        "Middle: standardised features of the frozen encoder, of a random one, and pixels. "
        f"Bottom: fine-tuned with {data['confused_at']} labels, summed over seeds; rows are true "
        "classes and sum to 100 %."
    )


def _curves(axis: Axes, curves: list[dict[str, Any]]) -> None:
    for curve in curves:
        colour, marker, line = LOOKS[curve["how"], curve["start"]]
        how = "" if curve["how"] == "fine-tuned" else f": {curve['how']}"
        x = [point["labels"] for point in curve["points"]]
        y = 100 * np.array([point["mean"] for point in curve["points"]])
        half = 100 * np.array([point["half"] or 0 for point in curve["points"]])
        axis.fill_between(x, y - half, y + half, color=colour, alpha=0.15, linewidth=0)
        axis.errorbar(x, y, half, color=colour, marker=marker, linestyle=line, markersize=5,
                      capsize=3, label=curve["start"] + how)  # fmt: skip
    ticks = sorted({point["labels"] for curve in curves for point in curve["points"]})
    axis.set(xscale="log", xlabel="labelled clips")
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()


PANELS = {
    "expression": ("UAR, expression (%)", 100),
    "direction": ("UAR, direction (%)", 100),
    "appearance": ("appearance / baseline", 1),
    "motion": ("motion / baseline", 1),
}


@drawing("10_ablations")
def draw_ablations(figure: Figure, data: dict[str, Any]) -> str:
    """A line per variant, a panel per score; below, the held-out losses over the steps."""
    rows = data["rows"]
    figure.set_size_inches(10.5, 5.2 + 0.38 * len(rows))
    top, bottom = style.stack(figure, 1.6 + 0.38 * len(rows), 3.2)
    axes = top.subplots(1, len(PANELS), sharey=True)
    for axis, (name, (label, scale)) in zip(axes, PANELS.items(), strict=True):
        for y, row in enumerate(rows):
            if found := row[name]:
                gap = row[f"{name} difference"]
                apart = gap and gap["half"] is not None and abs(gap["mean"]) > gap["half"]
                axis.errorbar(scale * found["mean"], y, xerr=scale * (found["half"] or 0), fmt="o",
                              color=PALETTE[0], markersize=5, capsize=3,
                              markerfacecolor=PALETTE[0] if apart else "white")  # fmt: skip
                axis.plot(scale * np.array(found["values"]), [y + 0.25] * len(found["values"]), ".",
                          color=GREY, markersize=3)  # fmt: skip
        axis.set_xlabel(label)
        axis.axvline(CHANCE.get(name, 1), color=INK, linestyle=":", linewidth=1)
    names = [
        f"{row['variant']}\n{row['gmacs'] * 1000:.0f} MMACs, {row['parameters'] / 1e6:.2f}M"
        for row in rows
    ]
    axes[0].set_yticks(range(len(rows)), names, fontsize=8)
    axes[0].invert_yaxis()
    for axis, (place, kind) in zip(
        bottom.subplots(1, 2), enumerate(("appearance", "motion"), 1), strict=True
    ):
        for number, (name, curve) in enumerate(data["losses"].items()):
            if len(curve[0]) > place:
                axis.plot([c[0] for c in curve], [c[place] for c in curve], "o-",
                          color=PALETTE[number], markersize=4, label=name)  # fmt: skip
        axis.axhline(1, color=INK, linestyle=":", linewidth=1)
        axis.set(xlabel="step", ylabel=f"held-out {kind} / baseline")
        if place == 1:  # the same lines in both
            axis.legend(fontsize=8)
    return (
        f"One thing changed in the pre-training of the first row ({data['reference']}), fine-tuned "
        f"with {rows[0]['labels']} labels (direction: {rows[0]['direction labels']}); three seeds "
        "(first row, 4 x length: five), each with other people. Means and 95 % intervals "
        "(Student's t), dots: seeds; filled: the paired difference from the first row is apart "
        "from zero. Dotted: "
        "chance, or the baseline, the better of predicting zero and interpolating. Below: mean "
        "held-out losses on the way."
    )
