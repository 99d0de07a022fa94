"""Figure of notebook 08: three starts of a fine-tuning, and what pre-trained features hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from maedfer_lab.figures.style import (
    INTERPOLATION,
    MODEL,
    PALETTE,
    caption,
    new_figure,
    stack,
)


def draw_finetune(data: dict[str, Any]) -> Figure:
    """Scores with intervals, the confusion of each start, and a map of the features, twice."""
    figure = new_figure(10.5, 10)
    first, second, third = stack(figure, 2.2, 3.6, 4)
    _scores(first, data)
    _confusions(second, data)
    _maps(third, data)
    chance = 100 / len(data["classes"])
    caption(
        figure,
        f"{data['steps']} steps from each start, the same clips in the same order; "
        f"{len(data['labels'])} test clips of people whom no training has seen. Bars: 95 % "
        f"bootstrap intervals over clips; dashed: guessing, {chance:.1f} %. Rows of a matrix are "
        "true classes and sum to 100 %. Frozen: logistic regression on features of the start, "
        "before any label. Maps: t-SNE of the test clips' features as pre-training left them; "
        "neighbours are alike, distances and axes mean nothing; lines join a clip with the nearest "
        "one of its person. The share is that of clips whose nearest neighbour (cosine) has the "
        "same colour. Longer: our shipped classifier on larger and harder clips of such people.",
        data,
    )
    return figure


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
