"""Figures of notebook 06: where a cube looks, and how local and how sharp attention is."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from maedfer_lab.figures import style
from maedfer_lab.figures.style import GREY, INK, PALETTE, drawing
from maedfer_lab.files import unpack_picture

HEAT = "viridis"  # perceptually uniform, and readable for the colour-blind
STAGES = {"local": "1 local", "inter": "2 inter", "interact": "3 interact", "joint": "joint"}
COLOURS = dict(zip(STAGES, PALETTE, strict=False))
COLUMNS = 4


@drawing("06_attention")
def draw_attention(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 06: one cube of a clip, and what it looks at in each stage and in all.

    At most four steps of the token grid are shown, evenly spaced, the cube's own among them.
    """
    t, y, x = data["query"]
    every = -(-len(data["frames"]) // COLUMNS)
    steps = range(t % every, len(data["frames"]), every)
    pictures = [unpack_picture(data["pictures"][i]) for i in steps]
    rows = data["rows"]
    figure.set_size_inches(2.5 + 1.25 * len(steps), 0.9 + 1.22 * (1 + len(rows)))
    grid = figure.subplots(1 + len(rows), len(steps), squeeze=False)
    for axis, picture, i in zip(grid[0], pictures, steps, strict=True):
        style.draw_picture(axis, picture)
        axis.set_title(f"frame {data['frames'][i]}", fontsize=9.5)
    for axes, label in zip(grid, ["clip", *(row["label"] for row in rows)], strict=True):
        axes[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
    for axes, row in zip(grid[1:], rows, strict=True):
        weights = 100 * np.array(row["weights"], dtype=float)
        most = max(float(np.nanmax(weights)), 1e-9)
        norm = PowerNorm(0.5, 0, most)
        for axis, picture, i in zip(axes, pictures, steps, strict=True):
            draw_weights(axis, picture, weights[i], norm)
        bar = figure.colorbar(ScalarMappable(norm, HEAT), ax=list(axes), pad=0.01, aspect=9)
        ticks = [most * part for part in (0, 0.1, 0.4, 1)]
        bar.set_ticks(ticks, labels=[f"{tick:.2g} %" for tick in ticks], fontsize=8)
    figure.colorbar(ScalarMappable(), ax=list(grid[0]), pad=0.01, aspect=9).ax.set_visible(False)
    tall, wide = np.array(rows[0]["weights"]).shape[1:]
    height, width = pictures[0].shape[0] / tall, pictures[0].shape[1] / wide
    for axis in grid[:, steps.index(t)]:
        corner, colour = (x * width - 0.5, y * height - 0.5), style.MARK
        axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=2))
    return (
        f"{data['model']}, layer {data['layer']} of 0 to {data['depth'] - 1}, mean of the heads, "
        f"on {data['clip']}: where the marked cube looks, as a share of its attention. Stages 2 "
        "and 3 paint a region's cubes with the share of its representative token, so that they "
        "tell no cube of a region from another. Bare picture: out of this stage's reach. Square "
        "root colour scale, one for each row; the face shades the colours. Where a cube looks is "
        "not what an output depends on."
    )


def draw_weights(axis: Axes, pixels: np.ndarray, values: np.ndarray, norm: PowerNorm) -> None:
    """Colours of a heat map over the token grid, shaded by the picture; NaN leaves it grey."""
    grey = style.brightness(pixels)[..., None]
    whole = [size // cells for size, cells in zip(pixels.shape, values.shape, strict=False)]
    spread = np.kron(values, np.ones(whole))
    colours = colormaps[HEAT](norm(np.nan_to_num(spread)))[..., :3]
    # The colours' own darkness is kept; eyes, nose and mouth stand in them as light and shadow.
    low, high = np.quantile(grey, [0.02, 0.98])
    shade = 0.4 + 0.6 * ((grey - low) / max(high - low, 1e-6)).clip(0, 1)
    style.draw_picture(axis, np.where(np.isnan(spread)[..., None], grey, colours * shade))


@drawing("06_locality", 9.5, 4.4)
def draw_locality(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 06: entropy by layer and stage, and the reach of the rollout beside a ViT's."""
    left, right = figure.subplots(1, 2)
    for name, line in (("pre-trained", "-"), ("untrained", ":")):
        rows = data["statistics"][name]
        for place, stage in enumerate(dict.fromkeys(row["stage"] for row in rows)):
            own = [(row["layer"], row["relative_entropy"]) for row in rows if row["stage"] == stage]
            layers = sorted({layer for layer, _ in own})
            means = [np.mean([y for x, y in own if x == layer]) for layer in layers]
            shift, colour = 0.08 * (place - 1), COLOURS[stage]
            label = f"{STAGES[stage]}, {name}"
            left.plot(np.array(layers) + shift, means, line, color=colour, label=label)
            if line == "-":
                x, y = np.array(own).T
                left.plot(x + shift, y, "o", color=colour, markersize=4, alpha=0.75)
    left.set(xlabel="layer", ylabel="entropy / largest possible", xticks=layers, ylim=(0, 1.45))
    left.set(yticks=np.linspace(0, 1, 6), title="how spread out attention is (1 = uniform)")
    left.legend(loc="upper center", fontsize=8, ncols=2)
    _rollout(right, data)
    return (
        "Left: our small model on a real clip; dots are heads, lines their means. Right: two "
        f"smaller models of equal cost after the same {data['steps']} steps on synthetic faces, on "
        "the same clip; 1 would be drawing evenly from the clip. One clip each, so no intervals."
    )


@drawing("06_regions", 9.5, 5.7)
def draw_regions(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 06: which regions stage 2 joins, and a t-SNE of the representative tokens."""
    top, bottom = style.stack(figure, 2.2, 3.5)
    heads, names = data["inter"], [region["label"] for region in data["regions"]]
    axes = top.subplots(1, len(heads), squeeze=False, sharey=True)[0]
    for head, (axis, weights) in enumerate(zip(axes, heads, strict=True)):
        image = axis.imshow(np.array(weights), cmap=HEAT, vmin=0, vmax=np.max(heads))
        axis.set(title=f"2 inter, head {head}", xlabel="to the region at")
        axis.set_xticks(range(len(names)), range(1, len(names) + 1), fontsize=7.5)
    numbered = [f"{i}: {name}" for i, name in enumerate(names, 1)]
    axes[0].set_yticks(range(len(names)), numbered, fontsize=7.5)
    axes[0].set_ylabel("from the region at")
    top.colorbar(image, ax=list(axes), shrink=0.8, label="weight")
    axes = bottom.subplots(1, len(data["tsne"]))
    for axis, (name, places) in zip(axes, data["tsne"].items(), strict=True):
        _neighbours(axis, name, places, data)
    style.outside_legend(bottom, axes[:1], loc="outside lower center", ncols=4, fontsize=8.5)
    return (
        f"Above: stage 2 of layer {data['layer']} on a real clip; rows sum to 1. Below: t-SNE of "
        f"the representative tokens of {data['num_clips']} synthetic clips, one mark for each "
        "region: only neighbourhood means something, distances and axes do not."
    )


def _rollout(axis: Axes, data: dict[str, Any]) -> None:
    measures = ("reach in the\npicture", "reach in time", "from outside\nthe own region")
    rows = sorted(data["rollout"], key=lambda row: row["model"])
    height = 0.8 / len(rows)
    colours = {"LGI-Former": COLOURS["local"], "ViT": COLOURS["inter"]}
    for i, row in enumerate(rows):
        places = np.arange(len(measures)) + height * (i - (len(rows) - 1) / 2)
        shares = [row["reach"][unit] / row["uniform_reach"][unit] for unit in ("pixels", "frames")]
        shares.append(row["outside"] / row["uniform_outside"])
        trained = "trained" if row["trained"] else "untrained"
        drawn = axis.barh(places, shares, 0.9 * height, color=colours[row["model"]],
                          alpha=1 if row["trained"] else 0.45,
                          label=f"{row['model']}, {trained}")  # fmt: skip
        axis.bar_label(drawn, fmt="%.2f", padding=2, fontsize=7.5)
    axis.set_yticks(range(len(measures)), measures)
    axis.axvline(1, color=GREY, linewidth=0.8)
    axis.set(xlim=(0, 1.9), xlabel="in units of even attention", xticks=[0, 0.5, 1],
             title="rollout: LGI-Former and ViT, equal cost")  # fmt: skip
    axis.invert_yaxis()
    axis.legend(loc="center right", fontsize=8)


def _neighbours(axis: Axes, name: str, places: list[Any], data: dict[str, Any]) -> None:
    xy, regions = np.array(places), data["regions"]
    steps = max(region["step"] for region in regions) + 1
    colours = colormaps[HEAT](np.linspace(0, 1, steps + 2)[1:-1])
    for j, region in enumerate(regions):
        marker = "o^sDvP*X"[region["window"] % 8]
        axis.scatter(*xy[j :: len(regions)].T, s=26, marker=marker, edgecolor=INK, linewidth=0.3,
                     color=colours[region["step"]], label=region["label"])  # fmt: skip
    agree = data["agreement"][name]
    axis.set(title=f"representative tokens, {name}\nnearest is of the same clip: "
             f"{agree['clip']:.0%}, of the same region: {agree['region']:.0%}",
             xticks=[], yticks=[])  # fmt: skip
    for spine in axis.spines.values():
        spine.set_visible(False)
