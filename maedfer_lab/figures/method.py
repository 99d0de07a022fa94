"""Figures of notebooks 01 to 05, and the live loss curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import Rectangle
from matplotlib.ticker import MultipleLocator

from maedfer_lab.figures import style
from maedfer_lab.figures.style import GREY, INK, INTERPOLATION, MARK, MODEL, PALETTE, ZERO, drawing
from maedfer_lab.files import unpack_picture

SEQUENTIAL = "cividis"  # perceptually uniform, and the same to colour-blind eyes


@drawing("01_clips_to_tokens", 9.5, 6.1)
def draw_tokens(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 01: frames of a clip, the token grid with its regions, and the positions."""
    top, bottom = style.stack(figure, 1.5, 3.6)
    pixels, (t, h, w), (rt, rh, rw) = unpack_picture(data["frame"]), data["grid"], data["region"]
    tall, wide = h // rh, w // rw
    number = (t // rt) * tall * wide
    axes = style.picture_rows(top, data["rows"], data["columns"])[0]
    for i, axis in enumerate(axes):  # as many pictures as steps of time
        _mark_regions(axis, i * t // len(axes) // rt, (tall, wide))
    left, middle, right = bottom.subplots(1, 3, width_ratios=[1, 1, 1.15])
    style.draw_picture(left, pixels)
    side = pixels.shape[0]
    for rows, columns, colour, width in ((h, w, "white", 0.6), (tall, wide, MODEL, 3)):
        for i in range(rows + 1):
            left.axhline(i * side / rows - 0.5, color=colour, linewidth=width)
        for i in range(columns + 1):
            left.axvline(i * side / columns - 0.5, color=colour, linewidth=width)
    left.set_title(f"{h} x {w} cubes in a frame,\n{t} in time: {t * h * w} tokens")
    step, y, x = data["place"]
    corner = (x * side / w - 0.5, y * side / h - 0.5)
    left.add_patch(Rectangle(corner, side / w, side / h, fill=False, edgecolor=MARK, linewidth=2.5,
                             zorder=4))  # fmt: skip
    style.draw_picture(middle, unpack_picture(data["cube"]))
    middle.set_title(f"the red cube: {data['cube_px']} pixels,\nits frames side by side")
    for spine in middle.spines.values():
        spine.set(visible=True, edgecolor=MARK, linewidth=2.5)
    image = right.imshow(np.array(data["similarity"]), cmap=SEQUENTIAL, vmin=-0.2, vmax=1)
    right.set(title="cosine similarity of positions\nof the tokens of one frame", xlabel="token",
              ylabel="token")  # fmt: skip
    bottom.colorbar(image, ax=right, shrink=0.75)
    return (
        f"A clip becomes {t} x {h} x {w} tokens (time x height x width). Above: its {number} local "
        f"regions of {rt} x {rh} x {rw} tokens, numbered; every second frame is shown. Below: a "
        f"frame of time step {step}, its cubes, one of them enlarged, and the similarity of the "
        "fixed positions of its tokens. Nothing here is learned."
    )


def _mark_regions(axis: Axes, step: int, windows: tuple[int, int]) -> None:
    """Outline and number a frame's windows, a colour for each span of time."""
    side = axis.images[0].get_size()[0]
    tall, wide = side / windows[0], side / windows[1]
    first = step * windows[0] * windows[1]
    for i in range(windows[0] * windows[1]):
        y, x = i // windows[1] * tall, i % windows[1] * wide
        colour = PALETTE[(first + i) % len(PALETTE)]
        axis.add_patch(Rectangle((x + 0.5, y + 0.5), wide - 2, tall - 2, fill=False,
                                 edgecolor=colour, linewidth=2.5))  # fmt: skip
        axis.text(x + 4, y + 4, str(first + i + 1), fontsize=8.5, va="top", color="white",
                  bbox={"facecolor": colour, "lw": 0, "pad": 1.5})  # fmt: skip


@drawing("02_masking", 9.5, 8.6)
def draw_masking(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 02: three kinds of masks, unequal tube masks, and misplaced tokens."""
    top, bottom = style.stack(figure, 5.2, 3.2)
    style.picture_rows(top, data["rows"], data["columns"])
    left, right = bottom.subplots(1, 2)
    counts = {int(k): v for k, v in data["tube_counts"].items()}
    left.bar(list(counts), list(counts.values()), color=INTERPOLATION, label="tube mask")
    left.bar([data["equal_count"]], [1], width=0.25, color=MODEL, label="region-equal tube mask")
    left.set(title="visible tokens in a region", xlabel="tokens", ylabel="share of regions",
             ylim=(0, 1.25))  # fmt: skip
    left.xaxis.set_major_locator(MultipleLocator(4))
    left.legend(loc="upper right", ncols=2)
    rows = data["misplaced"]
    names = [" x ".join(map(str, row["region"])) for row in rows]
    shares = [100 * row["misplaced"] / row["visible"] for row in rows]
    words = [f"{row['misplaced']} of {row['visible']}" for row in rows]
    style.bars(right, names, shares, words, color=[INTERPOLATION if s else GREY for s in shares])
    right.set(title="visible tokens that the published decoder misplaces",
              xlabel="% of visible tokens", ylabel="region (t x h x w)", xlim=(0, 125),
              xticks=[0, 25, 50, 75, 100])  # fmt: skip
    return (
        f"90 % hidden; grey: hidden. Of {data['num_masks']} plain tube masks "
        f"{data['unequal_share']:.0%} leave regions with unequal numbers of visible tokens; "
        "region-equal masks never do. One clip and one mask of each kind; the effect of "
        "a mask on training is not shown."
    )


@drawing("03_lgi_former", 9.5, 6.9)
def draw_lgi_former(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 03: attention of the three stages, and its cost."""
    top, bottom = style.stack(figure, 3.6, 3.0)
    panels = {  # title, axes
        "local": ("1 local: inside a region\n(first row and column: representative)",
                  "to token", "from token"),
        "inter": ("2 inter: among the\nrepresentative tokens",
                  "to representative", "from representative"),
        "interact": ("3 interact: every token to\nthe representative tokens",
                     "to representative", "from token (mean per region)"),
    }  # fmt: skip
    for axis, (stage, (title, x, y)) in zip(top.subplots(1, 3), panels.items(), strict=True):
        weights = np.array(data["attention"][stage])
        image = axis.imshow(weights * weights.shape[1], cmap=SEQUENTIAL, aspect="auto", vmin=0)
        axis.set(title=title, xlabel=x, ylabel=y)
        bar = top.colorbar(image, ax=axis, shrink=0.85)
    bar.set_label("weight x keys (1 = uniform)")
    left, right = bottom.subplots(1, 2)
    parts = data["pairs"]
    colours = [MODEL, *PALETTE[3:5], GREY][: len(parts) - 1] + [GREY]
    words = [f"{pairs:,}" for pairs in parts.values()]
    style.bars(left, list(parts), list(parts.values()), words, color=colours)
    left.set(title="query-key pairs per head", xscale="log", xlim=(1, 2e7))
    shapes = [row["region"] for row in data["regions"]]
    shares = [row["share"] for row in data["regions"]]
    right.plot(range(len(shapes)), shares, "o-", color=MODEL)
    chosen = shapes.index(data["region"])
    right.plot([chosen], [shares[chosen]], "s", color=INK, markersize=9, label="the paper's region")
    right.set_xticks(range(len(shapes)), ["x".join(map(str, s)) for s in shapes], rotation=60)
    right.set(title="pairs as a share of joint attention", xlabel="region", ylabel="share")
    right.legend()
    return (
        f"LGI-Former with {data['num_regions']} regions of {data['region_size']} tokens. Above: "
        f"block {data['layer'] + 1} of our small pre-trained model on one drawn clip, mean of the "
        "heads; other blocks and clips differ. The block equals the formulas written as loops to "
        f"{data['difference']:.0e} of the largest value. Below: pairs that are compared, which is "
        "not all that a block costs (notebook 07)."
    )


BASELINES = {"zero": (ZERO, "predict zero"), "interpolation": (INTERPOLATION, "interpolation")}


def loss_curve(
    figure: FigureBase, log: list[dict[str, float]], baselines: dict[str, dict[str, float]],
    published: dict[str, list[float]] | None = None, parts: Sequence[dict[str, Any]] = (),
) -> None:  # fmt: skip
    """Appearance and motion loss over steps, with model-free baselines.

    published: step and loss of a published run; a third panel then shows the run's loss over it.
    parts: "first" step and "baselines" of each part of a training with different clips.
    """
    parts = parts or [{"first": 0, "baselines": baselines}]
    axes = figure.subplots(1, 2 if published is None else 3)
    steps = np.array([row["step"] for row in log])
    if published is not None:
        axis, loss = axes[2], [row["loss"] for row in log]
        axis.plot(steps, loss, color=MODEL, linewidth=1, label="this run")
        axis.plot(published["step"], published["loss"], "o-", color=INK, markersize=3, linewidth=1,
                  label="published log, means of epochs")  # fmt: skip
        axis.set(title="loss compared with the published one", xlabel="step", xscale="log",
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
        highest = max(np.quantile(values, 0.8), *(losses[kind] for losses in baselines.values()))
        axis.set_ylim(0, 1.7 * highest)
        axis.legend(loc="upper right")


@drawing("04_pretrain", 9.5, 4.4)
def draw_pretrain(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 04: the run's losses."""
    loss_curve(figure, data["log"], data["baselines"])
    return (
        f"Pre-training of {data['name']} ({data['parameters'] / 1e6:.1f}M parameters, "
        f"{data['minutes']:.1f} min): losses over hidden cubes, {data['hidden']:.0%} hidden. "
        "Dashed: baselines without a model. Not shown: whether the features help in a task "
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
        "ten people; dashed: baselines without a model."
    )


@drawing("05_reconstruction", 9.5, 11.2)
def draw_reconstruction(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 05: held-out clips, masked and reconstructed, and their losses."""
    top, bottom = style.stack(figure, 8.0, 2.4)
    style.picture_rows(top, data["rows"], data["columns"])
    for axis, kind in zip(bottom.subplots(1, 2), ("appearance", "motion"), strict=True):
        values = [data["losses"][name][kind] for name in ("model", "interpolation", "zero")]
        names = ["model", "interpolation", "predict zero"]
        style.bars(axis, names, values, "%.3f", color=[MODEL, INTERPOLATION, ZERO])
        axis.set(title=f"{kind} loss", xlim=(0, 1.18 * max(values)))
    return (
        f"Held-out people, {data['hidden']:.0%} of the cubes hidden. {data['model']}. Raw targets: "
        "no statistics of hidden pixels are used. "
        "Motion: odd minus even frame, orange brighter, violet darker, one scale for all up to the "
        "strongest 0.2 % of the pixels. Losses are mean squared errors over the hidden cubes of "
        f"{data['num_clips']} clips, in target units. Drawn people are easier than real ones; the "
        "model's card has those."
    )


class LiveCurve:
    """A live loss curve in a notebook cell; pass it as `on_log` to `pretrain`.

    published: step and loss of a published run for comparison (`paper.figure_data` has them).
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
