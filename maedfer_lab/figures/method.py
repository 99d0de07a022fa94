"""Figures of notebooks 01 (tokens), 02 (masking) and 03 (LGI-Former)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MultipleLocator

from maedfer_lab.figures.style import (
    GREY,
    INK,
    INTERPOLATION,
    MARK,
    MODEL,
    PALETTE,
    draw_picture,
    drawing,
    picture_rows,
    stack,
)
from maedfer_lab.files import unpack_picture

SEQUENTIAL = "cividis"  # perceptually uniform, and the same to colour-blind eyes


@drawing("01_clips_to_tokens", 9.5, 6.1)
def draw_tokens(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 01: frames of a clip, the token grid with its regions, and the positions."""
    top, bottom = stack(figure, 1.5, 3.6)
    pixels, (t, h, w), (rt, rh, rw) = unpack_picture(data["frame"]), data["grid"], data["region"]
    number = (t // rt) * (h // rh) * (w // rw)
    axes = picture_rows(top, data["rows"], data["columns"])[0]
    for i, axis in enumerate(axes):  # as many pictures as steps of time
        _mark_regions(axis, i * t // len(axes) // rt, (h // rh, w // rw))
    left, middle, right = bottom.subplots(1, 3, width_ratios=[1, 1, 1.15])
    draw_picture(left, pixels)
    side = pixels.shape[0]
    _grid_lines(left, side, h, w, "white", 0.6)
    _grid_lines(left, side, h // rh, w // rw, MODEL, 3)
    left.set_title(f"{h} x {w} cubes in a frame,\n{t} in time: {t * h * w} tokens")
    step, y, x = data["place"]
    corner = (x * side / w - 0.5, y * side / h - 0.5)
    left.add_patch(
        Rectangle(corner, side / w, side / h, fill=False, edgecolor=MARK, linewidth=2.5, zorder=4)
    )
    draw_picture(middle, unpack_picture(data["cube"]))
    middle.set_title(f"the red cube: {data['cube_px']} pixels,\nits frames side by side")
    for spine in middle.spines.values():
        spine.set(visible=True, edgecolor=MARK, linewidth=2.5)
    image = right.imshow(np.array(data["similarity"]), cmap=SEQUENTIAL, vmin=-0.2, vmax=1)
    right.set(
        title="cosine of positions between\nthe tokens of one frame", xlabel="token", ylabel="token"
    )
    bottom.colorbar(image, ax=right, shrink=0.75)
    return (
        f"A clip becomes {t} x {h} x {w} tokens (time x height x width). Above: its {number} local "
        f"regions of {rt} x {rh} x {rw} tokens, numbered; every second frame is shown. Below: a "
        f"frame of time step {step}, its cubes, one of them enlarged, and how alike the fixed "
        "positions of two tokens are. Nothing here is learned."
    )


def _mark_regions(axis: Axes, step: int, windows: tuple[int, int]) -> None:
    """Outline and number a frame's windows, a colour for each span of time."""
    side = axis.images[0].get_size()[0]
    tall, wide = side / windows[0], side / windows[1]
    for i in range(windows[0] * windows[1]):
        y, x = i // windows[1] * tall, i % windows[1] * wide
        colour = PALETTE[(step * windows[0] * windows[1] + i) % len(PALETTE)]
        axis.add_patch(Rectangle((x + 0.5, y + 0.5), wide - 2, tall - 2, fill=False,
                                 edgecolor=colour, linewidth=2.5))  # fmt: skip
        axis.text(x + 4, y + 4, str(step * windows[0] * windows[1] + i + 1), fontsize=8.5, va="top",
                  color="white", bbox={"facecolor": colour, "lw": 0, "pad": 1.5})  # fmt: skip


def _grid_lines(axis: Axes, side: int, rows: int, columns: int, colour: str, width: float) -> None:
    for i in range(rows + 1):
        axis.axhline(i * side / rows - 0.5, color=colour, linewidth=width)
    for i in range(columns + 1):
        axis.axvline(i * side / columns - 0.5, color=colour, linewidth=width)


@drawing("02_masking", 9.5, 8.6)
def draw_masking(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 02: three kinds of masks, how unequal tube masks are, what the order costs."""
    top, bottom = stack(figure, 5.2, 3.2)
    picture_rows(top, data["rows"], data["columns"])
    left, right = bottom.subplots(1, 2)
    counts = {int(k): v for k, v in data["tube_counts"].items()}
    left.bar(list(counts), list(counts.values()), color=INTERPOLATION, label="tube mask")
    equal = data["equal_count"]
    left.bar([equal], [1], width=0.25, color=MODEL, label="region-equal tube mask")
    left.set(
        title="visible tokens in a region",
        xlabel="tokens",
        ylabel="share of regions",
        ylim=(0, 1.25),
    )
    left.xaxis.set_major_locator(MultipleLocator(4))
    left.legend(loc="upper right", ncols=2)
    names = [" x ".join(map(str, row["region"])) for row in data["misplaced"]]
    shares = [100 * row["misplaced"] / row["visible"] for row in data["misplaced"]]
    bars = right.barh(names, shares, color=[INTERPOLATION if s else GREY for s in shares])
    right.bar_label(
        bars, [f"{r['misplaced']} of {r['visible']}" for r in data["misplaced"]], padding=3,
        fontsize=9,
    )  # fmt: skip
    right.set(
        title="visible tokens that the published decoder misplaces",
        xlabel="% of visible tokens",
        ylabel="region (t x h x w)",
        xlim=(0, 125),
        xticks=[0, 25, 50, 75, 100],
    )
    right.invert_yaxis()
    return (
        f"90 % hidden; grey: hidden. Of {data['num_masks']} plain tube masks "
        f"{data['unequal_share']:.0%} leave regions with unequal numbers of visible tokens; "
        "region-equal masks never do. One clip and one mask of each kind; what a kind of mask "
        "does to a training is not shown."
    )


@drawing("03_lgi_former", 9.5, 6.9)
def draw_lgi_former(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 03: attention of the three stages, and what attention costs."""
    top, bottom = stack(figure, 3.6, 3.0)
    axes = top.subplots(1, 3)
    titles = {
        "local": "1 local: inside a region\n(first row and column: representative)",
        "inter": "2 inter: among the\nrepresentative tokens",
        "interact": "3 interact: every token to\nthe representative tokens",
    }
    labels = {
        "local": ("to token", "from token"),
        "inter": ("to representative", "from representative"),
        "interact": ("to representative", "from token (mean per region)"),
    }
    for axis, (stage, title) in zip(axes, titles.items(), strict=True):
        weights = np.array(data["attention"][stage])
        image = axis.imshow(weights * weights.shape[1], cmap=SEQUENTIAL, aspect="auto", vmin=0)
        axis.set(title=title, xlabel=labels[stage][0], ylabel=labels[stage][1])
        bar = top.colorbar(image, ax=axis, shrink=0.85)
    bar.set_label("weight x keys (1 = uniform)")
    left, right = bottom.subplots(1, 2)
    parts = data["pairs"]
    names = list(parts)
    colours = [MODEL, *PALETTE[3:5], GREY]
    bars = left.barh(names, [parts[k] for k in names], color=colours[: len(names) - 1] + [GREY])
    left.bar_label(bars, [f"{parts[k]:,}" for k in names], padding=3, fontsize=9)
    left.set(title="query-key pairs per head", xscale="log", xlim=(1, 2e7))
    left.invert_yaxis()
    shapes = [row["region"] for row in data["regions"]]
    right.plot(range(len(shapes)), [row["share"] for row in data["regions"]], "o-", color=MODEL)
    chosen = shapes.index(data["region"])
    right.plot([chosen], [data["regions"][chosen]["share"]], "s", color=INK, markersize=9,
               label="the paper's region")  # fmt: skip
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
