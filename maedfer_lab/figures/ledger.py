"""Figures of notebook 09: folds and reproductions, the pre-training log, the claims ledger."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from maedfer_lab.figures.paper import WIDTH
from maedfer_lab.figures.style import GREY, INK, MODEL, PALETTE, caption, new_figure

RUNS = {  # by whom -> colour, shape, words
    "ours": (INK, "*", "measured here"),
    "released": (MODEL, "o", "authors, published weights"),
    "original": (MODEL, "D", "authors, the paper's run"),
    "reproduced": (MODEL, "o", ""),
    "issue 21": (PALETTE[1], "s", "issue 21 (independent)"),
    "MAE-DFER-CA": (PALETTE[2], "^", "MAE-DFER-CA (independent)"),
    "issue 12": (PALETTE[3], "v", "issue 12 (own pre-training)"),
    "issue 14": (PALETTE[4], "P", "issue 14 (data in doubt)"),
}


def draw_folds(data: dict[str, Any]) -> Figure:
    """UAR and WAR fold by fold, with intervals, and what others got."""
    rows = data["rows"]
    places = list(dict.fromkeys((r["dataset"], r["fold"]) for r in sorted(rows, key=_fold_order)))
    gaps = np.cumsum([i > 0 and places[i][0] != places[i - 1][0] for i in range(len(places))])
    height = {
        place: -(i + 0.8 * gap) for i, (place, gap) in enumerate(zip(places, gaps, strict=True))
    }
    figure = new_figure(WIDTH, 6.8)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, score in zip(axes, ("uar", "war"), strict=True):
        for row in rows:
            colour, shape, words = RUNS[row["by"]]
            others = [
                r["by"] for r in rows if (r["dataset"], r["fold"]) == (row["dataset"], row["fold"])
            ]
            y = height[row["dataset"], row["fold"]] + 0.22 * (
                (len(others) - 1) / 2 - others.index(row["by"])
            )
            axis.errorbar(
                row[score], y, xerr=row[f"{score}_interval"], fmt=shape, color=colour,
                markersize=5, elinewidth=1, capsize=0, label=words or None,
            )  # fmt: skip
        axis.set(title=score.upper(), xlabel="%")
        axis.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
    names = [
        f"{d}, test" if f == "all" else f"{d}, {f if f == 'mean' else f'fold {f}'}"
        for d, f in places
    ]
    axes[0].set_yticks([height[place] for place in places], names, fontsize=8.5)
    handles, labels = axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=2, fontsize=8)
    caption(
        figure,
        "Published checkpoints and independent fine-tunings. Bars: 95 % interval that the size of "
        "the test set alone leaves (UAR: from the class recalls of the paper's table).",
    )
    return figure


def _fold_order(row: dict[str, Any]) -> tuple[str, bool, str]:
    return row["dataset"], row["fold"] == "mean", row["fold"]


def draw_pretraining_log(data: dict[str, Any]) -> Figure:
    """The published pre-training loss and learning rate, with our own runs over the loss."""
    figure = new_figure(WIDTH, 5.6)
    top, bottom = figure.subplots(2, 1, height_ratios=[2, 1], sharex=True)
    millions = np.array(data["clips"]) / 1e6
    top.plot(millions, data["loss"], "o-", color=MODEL, markersize=3, linewidth=1.2,
             label="published log, mean of each epoch")  # fmt: skip
    for run, colour in zip(data["runs"], PALETTE[1:] * 9, strict=False):
        top.plot(np.array(run["clips"]) / 1e6, run["loss"], "--", color=colour, label=run["name"])
    if data["runs"]:
        top.set_xscale("log")
    top.set(ylabel="loss (cube units)", title="pre-training on VoxCeleb2, 50 of 100 planned epochs")
    top.legend(loc="lower left" if data["runs"] else "upper right")
    bottom.plot(millions, 1e4 * np.array(data["learning_rate"]), "o-", color=INK, markersize=3,
                linewidth=1)  # fmt: skip
    bottom.set(xlabel="clips seen, millions", ylabel="learning rate x $10^4$", ylim=(0, 2))
    caption(
        figure,
        "Loss of MAE-DFER's published pre-training, lambda = 0.5, and the mean learning rate of "
        "each epoch. The published weights are those of the last point, half-way through the "
        "schedule.",
    )
    return figure


STATUSES = {
    "recomputed": (MODEL, ""),
    "contradicted": (PALETTE[3], "////"),
    "needs data": ("#d0d0d0", ""),
    "measured": (PALETTE[2], ""),
    "not found": ("white", "...."),
}


def draw_ledger(data: dict[str, Any]) -> Figure:
    """Claims by kind and status; below, by how much the contradicted percentages are off."""
    figure = new_figure(WIDTH, 7.4)
    top, bottom = figure.subplots(2, 1, height_ratios=[1, 1])
    kinds = data["kinds"]
    for y, counts in enumerate(kinds.values()):
        left = 0
        for status, (colour, hatch) in STATUSES.items():
            count = counts.get(status, 0)
            if count:
                top.barh(
                    y, count, left=left, color=colour, hatch=hatch, edgecolor=INK, linewidth=0.6
                )
                left += count
        words = " + ".join(f"{n} {s}" if s == "contradicted" else str(n) for s, n in counts.items())
        top.text(left + 2, y, words, va="center", fontsize=8)
    top.set_yticks(range(len(kinds)), list(kinds), fontsize=8.5)
    top.invert_yaxis()
    top.set(xlabel="claims", xlim=(0, 1.55 * max(sum(c.values()) for c in kinds.values())))
    handles = [
        top.barh(0, 0, color=colour, hatch=hatch, edgecolor=INK, linewidth=0.6,
                 label=f"{status} ({data['totals'][status]})")
        for status, (colour, hatch) in STATUSES.items()
    ]  # fmt: skip
    top.legend(handles=handles, loc="upper right", fontsize=8.5)
    top.set_title(f"{sum(data['totals'].values())} numeric claims")
    wrong = [claim for claim in data["contradicted"] if claim["unit"] == "percent"]
    for y, claim in enumerate(wrong):
        bottom.plot([0, claim["value"] - claim["found"]], [y, y], color=PALETTE[3], linewidth=1)
        bottom.plot(claim["value"] - claim["found"], y, "o", color=PALETTE[3], markersize=5)
        bottom.plot([-claim["tolerance"], claim["tolerance"]], [y, y], color=GREY, linewidth=6,
                    alpha=0.6, solid_capstyle="butt")  # fmt: skip
    names = [short(claim["statement"]) for claim in wrong]
    bottom.set_yticks(range(len(wrong)), names, fontsize=8.5)
    bottom.invert_yaxis()
    bottom.axvline(0, color=INK, linewidth=0.8)
    bottom.set(xlabel="printed minus recomputed, percentage points", title="contradicted scores")
    caption(
        figure,
        "Above: how many claims are checked in which way, and what came out. Below: printed "
        "scores that do not follow from the printed class columns; grey: what rounding (and means "
        "over folds) would allow. "
        f"{len(data['contradicted']) - len(wrong)} more contradictions are not percentages.",
    )
    return figure


def short(statement: str) -> str:
    """The part of a claim's statement that names data set, method and score."""
    subject, _, rest = statement.partition(": ")
    subject = subject.replace("(Kinetics-400)", "(K.)")
    return f"{subject}: {rest.split()[0]}" + (", elsewhere" if "printed elsewhere" in rest else "")
