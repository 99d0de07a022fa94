"""Figure of notebook 10: ablations at small scale, mean and 95 % interval over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maedfer_lab.figures.style import (
    GREY,
    INK,
    INTERPOLATION,
    MODEL,
    caption,
    new_figure,
)

PANELS = {
    "uar": ("UAR on unseen people (%)", 100),
    "appearance": ("appearance loss / best without model", 1),
    "motion": ("motion loss / best without model", 1),
}


def draw_ablations(data: dict[str, Any]) -> Figure:
    """A line per variant, a panel per score; the first variant's interval is shaded."""
    rows = data["rows"]
    figure = new_figure(10.5, 2.6 + 0.42 * len(rows))
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
    caption(
        figure,
        f"Small scale: {rows[0]['pretrain_steps']} steps of pre-training and "
        f"{rows[0]['finetune_steps']} of fine-tuning on synthetic faces; {spread}. Where an "
        "interval meets the shaded one of the first row, no difference is shown (diamonds: apart). "
        "Losses: held-out, "
        "divided by the best that needs no model, zero or interpolation (dashed). Cost: "
        "multiply-adds of the classifier by formula, its parameters, and seconds of one seed.",
        data,
    )
    return figure


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
