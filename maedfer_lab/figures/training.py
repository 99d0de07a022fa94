"""Figures of notebooks 04 (pre-training) and 05 (reconstruction), and the live loss curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure, FigureBase

from maedfer_lab.figures import style
from maedfer_lab.figures.style import INK, INTERPOLATION, MODEL, ZERO, drawing

BASELINES = {"zero": (ZERO, "predict zero"), "interpolation": (INTERPOLATION, "interpolation")}


def loss_curve(
    figure: FigureBase,
    log: list[dict[str, float]],
    baselines: dict[str, dict[str, float]],
    published: dict[str, list[float]] | None = None,
    parts: Sequence[dict[str, Any]] = (),
) -> None:
    """Appearance and motion loss over steps, beside what needs no model.

    published: step and loss of a published run; a third panel then shows the run's loss over it.
    parts: "first" step and "baselines" of each part of a training whose clips changed on the way.
    """
    parts = parts or [{"first": 0, "baselines": baselines}]
    axes = figure.subplots(1, 2 if published is None else 3)
    steps = np.array([row["step"] for row in log])
    if published is not None:
        axis, loss = axes[2], [row["loss"] for row in log]
        axis.plot(steps, loss, color=MODEL, linewidth=1, label="this run")
        axis.plot(published["step"], published["loss"], "o-", color=INK, markersize=3, linewidth=1,
                  label="published log, means of epochs")  # fmt: skip
        axis.set(title="loss beside the published one", xlabel="step", xscale="log",
                 ylabel="loss (cube units)")  # fmt: skip
        axis.legend(loc="lower left")
    for axis, kind in zip(axes[:2], ("appearance", "motion"), strict=True):
        values = np.array([row[kind] for row in log])
        width = max(1, len(values) // 60)
        smooth = np.convolve(values, np.ones(width) / width, "valid")
        axis.plot(steps, values, color=MODEL, alpha=0.2, linewidth=0.7)
        span = round(width * (steps[-1] - steps[0]) / max(1, len(steps) - 1))
        mean = f" (mean of {span} steps)" if span > 1 else ""
        axis.plot(steps[width - 1 :], smooth, color=MODEL, label=f"training{mean}")
        held = f"held_out_{kind}"
        judged = [(row["step"], row[held]) for row in log if held in row]
        if judged:
            axis.plot(*zip(*judged, strict=True), "o-", color=INK, markersize=4, linewidth=1,
                      label="held-out identities")  # fmt: skip
        edges = [*(part["first"] for part in parts), steps[-1]]
        for name in baselines:
            colour, label = BASELINES[name]
            levels = [part["baselines"][name][kind] for part in parts]
            axis.stairs(levels, edges, baseline=None, color=colour, linestyle="--", linewidth=1.5,
                        label=f"held-out: {label}")  # fmt: skip
        axis.set(title=f"{kind} loss", xlabel="step", ylabel="mean squared error (target units)")
        highest = max(float(np.median(values)), *(losses[kind] for losses in baselines.values()))
        axis.set_ylim(0, 1.7 * highest)
        axis.legend(loc="upper right")


@drawing("04_pretrain", 9.5, 4.4)
def draw_pretrain(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 04: the run's losses."""
    loss_curve(figure, data["log"], data["baselines"])
    return (
        f"Pre-training of {data['name']} ({data['parameters'] / 1e6:.1f}M parameters, "
        f"{data['minutes']:.1f} min): errors over hidden cubes, {data['hidden']:.0%} hidden. "
        "Dashed: what can be had without a model. Not shown: whether the features serve a task "
        "(notebook 08)."
    )


@drawing("demo_weights", 9.5, 4.6)
def draw_weights(figure: Figure, data: dict[str, Any]) -> str:
    """The training of the shipped small model, part after part."""
    loss_curve(figure, data["log"], data["baselines"], parts=data["parts"])
    for axis in figure.axes:
        axis.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k")
        for part in data["parts"][1:]:
            axis.axvline(part["first"], ymax=0.7, color=INK, linewidth=0.8, linestyle=":")
    parts = "; ".join(f"from step {p['first']:,}: {p['what']}" for p in data["parts"])
    return (
        f"Training of the shipped model ({data['parameters'] / 1e6:.1f}M parameters, "
        f"{data['hours']:.1f} h on two cores), dotted: {parts}. Training: mask ratios from 50 to "
        "90 %, changed colours and proportions, turned and mirrored clips. Held out: 90 % hidden, "
        "ten people; dashed: what can be had without a model."
    )


@drawing("05_reconstruction", 9.5, 11.2)
def draw_reconstruction(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 05: held-out clips, hidden and put back, and their losses."""
    top, bottom = style.stack(figure, 8.0, 2.4)
    style.picture_rows(top, data["rows"], data["columns"])
    for axis, kind in zip(bottom.subplots(1, 2), ("appearance", "motion"), strict=True):
        values = [data["losses"][name][kind] for name in ("model", "interpolation", "zero")]
        names = ["model", "interpolation", "predict zero"]
        style.bars(axis, names, values, "%.3f", color=[MODEL, INTERPOLATION, ZERO])
        axis.set(title=f"{kind} loss", xlim=(0, 1.18 * max(values)))
    return (
        f"People the model has not seen, {data['hidden']:.0%} of the cubes hidden. "
        f"{data['model']}. Raw targets: nothing is borrowed from hidden pixels. "
        "Motion: odd minus even frame, orange brighter, violet darker, one scale for all up to the "
        "strongest 0.2 % of the pixels. Losses are mean squared errors over the hidden cubes of "
        f"{data['num_clips']} clips, in target units. Drawn people are easier than real ones; the "
        "model's card has those."
    )


class LiveCurve:
    """A loss curve that redraws itself in a notebook cell; pass it as `on_log` to `pretrain`.

    published: step and loss of a published run to draw beside (`paper.figure_data` has them).
    """

    def __init__(self, every: int = 5, published: dict[str, list[float]] | None = None) -> None:
        self.every, self.calls, self.handle = every, 0, None
        self.published = published

    def __call__(self, log: list[dict[str, float]], baselines: dict[str, Any]) -> None:
        """Draw at every few calls."""
        from IPython.display import display

        self.calls += 1
        if self.calls % self.every != 1:
            return
        with rc_context(style.STYLE):
            figure = style.new_figure(9 if self.published is None else 12, 3.4)
            loss_curve(figure, log, baselines, self.published)
            if self.handle is None:
                self.handle = display(figure, display_id=True)
            else:
                self.handle.update(figure)
