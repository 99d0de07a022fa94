"""Figures of notebooks 08 (starts of a fine-tuning) and 10 (ablations at small scale)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from maedfer_lab.figures.style import GREY, INK, INTERPOLATION, MODEL, PALETTE, drawing, stack


@drawing("08_finetune", 10.5, 10)
def draw_finetune(figure: Figure, data: dict[str, Any]) -> str:
    """Scores with intervals, the confusion of each start, and a map of the features, twice."""
    first, second, third = stack(figure, 2.2, 3.6, 4)
    _scores(first, data)
    _confusions(second, data)
    _maps(third, data)
    chance = 100 / len(data["classes"])
    return (
        f"{data['steps']} steps from each start, the same clips in the same order; "
        f"{len(data['labels'])} test clips of people whom no training has seen. Bars: 95 % "
        f"bootstrap intervals over clips; dashed: guessing, {chance:.1f} %. Rows of a matrix are "
        "true classes and sum to 100 %. Frozen: logistic regression on features of the start, "
        "before any label. Maps: t-SNE of the test clips' features as pre-training left them; "
        "neighbours are alike, distances and axes mean nothing; lines join a clip with the nearest "
        "one of its person. The share is that of clips whose nearest neighbour (cosine) has the "
        "same colour. Longer: our shipped classifier on larger and harder clips of such people."
    )


def _scores(figure: SubFigure, data: dict[str, Any]) -> None:
    for axis, score in zip(figure.subplots(1, 2, sharey=True), ("uar", "war"), strict=True):
        for y, row in enumerate(data["rows"]):
            value, ends = 100 * row["scores"][score], 100 * np.array(row["intervals"][score])
            axis.plot(ends, [y, y], color=MODEL, linewidth=2, solid_capstyle="butt")
            axis.plot(value, y, "o", color=MODEL)
            axis.annotate(f"{value:.1f}", (value, y), (0, 6), textcoords="offset points",
                          ha="center", fontsize=9)  # fmt: skip
        axis.axvline(100 / len(data["classes"]), color=INTERPOLATION, linestyle="--", linewidth=1)
        axis.set(
            title=f"{score.upper()} on unseen people (%)", ylim=(len(data["rows"]) - 0.5, -0.6)
        )
        axis.set_yticks(range(len(data["rows"])), [row["start"] for row in data["rows"]])


def _confusions(figure: SubFigure, data: dict[str, Any]) -> None:
    axes = figure.subplots(1, len(data["rows"]), sharey=True)
    places = range(len(data["classes"]))
    for axis, row in zip(axes, data["rows"], strict=True):
        counts = np.array(row["confusion"])
        shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
        picture = axis.imshow(shares, cmap="cividis", vmin=0, vmax=100)
        axis.set(title=row["start"], xlabel="taken for")
        axis.set_xticks(places, data["classes"], rotation=60, ha="right", fontsize=8)
        axis.set_yticks(places, data["classes"], fontsize=8)
    axes[0].set_ylabel("true class")
    figure.colorbar(picture, ax=axes, label="share of the true class (%)", shrink=0.8)


def _maps(figure: SubFigure, data: dict[str, Any]) -> None:
    import seaborn as sns  # here alone: it takes a second to import

    left, right = figure.subplots(1, 2)
    places, labels = np.array(data["map"]), np.array(data["labels"])
    for number, name in enumerate(data["classes"]):
        own = places[labels == number]
        left.scatter(*own.T, s=22, color=PALETTE[number], marker="osD^v<>PXhp"[number], label=name)
    left.legend(fontsize=8, ncols=1, loc="center left", bbox_to_anchor=(1, 0.5))
    people = np.array(data["people"])
    shades = sns.husl_palette(people.max() + 1)
    for number in np.unique(people):  # a line from each clip to the nearest of the same person
        own = places[people == number]
        apart = np.linalg.norm(own[:, None] - own, axis=-1) + 1e9 * np.eye(len(own))
        for place, other in zip(own, own[apart.argmin(1)], strict=True):
            right.plot(*zip(place, other, strict=True), color=shades[number], linewidth=1.2)
        right.scatter(*own.T, s=22, color=shades[number])
    _title(left, "class", data)
    _title(right, "person", data)


def _title(axis: Axes, what: str, data: dict[str, Any]) -> None:
    found = data["neighbours"][what]
    axis.set_title(
        f"by {what}: {100 * found['share']:.0f} % next to their own (chance "
        f"{100 * found['chance']:.0f} %)"
    )
    axis.set(xticks=[], yticks=[])


PANELS = {
    "uar": ("UAR on unseen people (%)", 100),
    "appearance": ("appearance loss / best without model", 1),
    "motion": ("motion loss / best without model", 1),
}


@drawing("10_ablations")
def draw_ablations(figure: Figure, data: dict[str, Any]) -> str:
    """A line per variant, a panel per score; the first variant's interval is shaded."""
    rows = data["rows"]
    figure.set_size_inches(10.5, 2.6 + 0.42 * len(rows))
    figure.suptitle("Ablations at small scale: not the paper's numbers", fontsize=11)
    for axis, (name, (label, scale)) in zip(
        figure.subplots(1, 3, sharey=True), PANELS.items(), strict=True
    ):
        _panel(axis, rows, name, scale)
        axis.set(title=f"small scale: {name if name != 'uar' else 'UAR'}", xlabel=label)
        level, words = (100 * data["chance"], "chance") if name == "uar" else (1, "no model")
        axis.axvline(level, color=INTERPOLATION, linestyle="--", linewidth=1, label=words)
        axis.legend(loc="best", fontsize=8)
    figure.axes[0].set_yticks(range(len(rows)), [_label(row) for row in rows])
    figure.axes[0].invert_yaxis()
    seeds = len(rows[0]["uar"]["values"])
    spread = (
        f"mean and 95 % interval (Student's t) over {seeds} seeds, small dots single seeds"
        if seeds > 1
        else "one seed, so no interval and no comparison"
    )
    return (
        f"Small scale: {rows[0]['pretrain_steps']} steps of pre-training and "
        f"{rows[0]['finetune_steps']} of fine-tuning on synthetic faces; {spread}. Where an "
        "interval meets the shaded one of the first row, no difference is shown (diamonds: apart). "
        "Losses: held-out, "
        "divided by the best that needs no model, zero or interpolation (dashed). Cost: "
        "multiply-adds of the classifier by formula, its parameters, and seconds of one seed."
    )


def _panel(axis: Axes, rows: list[dict[str, Any]], name: str, scale: float) -> None:
    first = rows[0][name]
    if first["half"] is not None:
        ends = [scale * (first["mean"] + sign * first["half"]) for sign in (-1, 1)]
        axis.axvspan(*ends, color=GREY, alpha=0.2, linewidth=0)
    for y, row in enumerate(rows):
        if row[name] is None:
            continue
        values = scale * np.array(row[name]["values"])
        axis.plot(values, np.full(len(values), y + 0.22), ".", color=GREY, markersize=4)
        half = scale * (row[name]["half"] or 0)
        apart = row["verdicts"].get(name) in ("higher", "lower")
        axis.errorbar(scale * row[name]["mean"], y, xerr=half, fmt="o" if not apart else "D",
                      color=MODEL if apart else INK, markersize=5, capsize=3)  # fmt: skip


def _label(row: dict[str, Any]) -> str:
    cost = f"{row['gmacs']:.4f} GMACs, {row['parameters'] / 1e6:.2f}M, {row['seconds']:.0f} s"
    return f"{row['variant']}\n({cost})"
