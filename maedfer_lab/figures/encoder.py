"""Figures of notebooks 06 and 07: LGI-Former's attention and cost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from maedfer_lab.figures import style
from maedfer_lab.figures.style import GREY, INK, INTERPOLATION, MODEL, PALETTE, ZERO, drawing
from maedfer_lab.files import unpack_picture

HEAT = "viridis"  # perceptually uniform, and readable for the colour-blind
STAGES = {"local": "1 local", "inter": "2 inter", "interact": "3 interact", "joint": "joint"}
COLOURS = dict(zip(STAGES, PALETTE, strict=False))
COLUMNS = 4


@drawing("06_attention")
def draw_attention(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 06: one cube of a clip, and its attention in each stage and over all.

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
        axis.set_title(f"frame {data['frames'][i] + 1}", fontsize=9.5)
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
        f"on {data['clip']}: how the marked cube's attention is distributed. Stages 2 and 3 show "
        "the weight of a region's representative token on all cubes of the region. No overlay: "
        "the stage does not attend there. Square root colour scale, one for each row; the face "
        "shades the colours. Attention does not tell what an output depends on."
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
    """Notebook 06: entropy by layer and stage, and the rollout compared with a ViT."""
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
    left.set(xlabel="layer", ylabel="entropy / maximum", xticks=layers, ylim=(0, 1.45))
    left.set(yticks=np.linspace(0, 1, 6), title="entropy of attention (1 = uniform)")
    left.legend(loc="upper center", fontsize=8, ncols=2)
    _rollout(right, data)
    return (
        "Left: our small model on a real clip; dots are heads, lines their means. Right: two "
        f"smaller models of equal cost after the same {data['steps']} steps on synthetic faces, on "
        "the same clip; 1 is uniform attention over the clip. One clip each, so no intervals."
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
        "region: only neighbourhoods are meaningful, not distances or axes."
    )


def _rollout(axis: Axes, data: dict[str, Any]) -> None:
    measures = ("distance in\nspace", "distance in time", "attention outside\nthe own region")
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
    axis.set(xlim=(0, 1.9), xlabel="relative to uniform attention", xticks=[0, 0.5, 1],
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
    axis.set(title=f"representative tokens, {name}\nnearest neighbour of the same clip: "
             f"{agree['clip']:.0%}, same region: {agree['region']:.0%}",
             xticks=[], yticks=[])  # fmt: skip
    for spine in axis.spines.values():
        spine.set_visible(False)


STAGE_COLOURS = {
    "embedding": GREY, "joint": PALETTE[1], "local": PALETTE[0], "inter": INK,
    "interact": PALETTE[9], "feed_forward": "#d4d4d4", "decoder_joint": PALETTE[4],
    "decoder_feed_forward": PALETTE[6],
}  # fmt: skip
TASKS = {"classify": "classifier", "pretrain": "pre-training"}
ON_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}


@drawing("07_flops", 9.5, 8.6)
def draw_flops(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 07: cost by stage, dead work, the agreement of the counts, and region sizes."""
    top, bottom = style.stack(figure, 4.2, 3.9)
    left, right = top.subplots(1, 2, width_ratios=[1.35, 1])
    classifiers = [m for m in data["models"] if m["task"] == "classify" and m["as_published"]]
    rows = [(m["name"], m["formula"], 1e-9, f"{m['macs'] / 1e9:.1f}, {m['parameters'] / 1e6:.0f}M")
            for m in classifiers]  # fmt: skip
    _bars_by_stage(left, rows, "GMACs per clip")
    left.set(title="cost of a classifier by stage, and its parameters", xlim=(0, 118))
    rows = []
    for m in data["models"]:
        if m["skipped"]:
            name, skipped = m["name"].split(",")[0], sum(m["skipped"].values())
            scale = 100 / (m["macs"] + skipped)
            label = f"{name}\n{TASKS[m['task']]}"
            rows.append((label, m["skipped"], scale, f"{skipped / 1e9:.2f} G"))
    _bars_by_stage(right, rows, "% of the published model's work")
    right.set(title="unused work: no output depends on it", xlim=(0, 9))
    left, right = bottom.subplots(1, 2, width_ratios=[1, 1.35])
    _agreement(left, data["models"])
    _regions(right, data)
    return (
        f"Clips of 16 x 160 x 160, 7 classes; pre-training with 90 % hidden. LGI-B needs "
        f"{data['saving']:.1%} fewer multiply-adds than ViT-B (equal parameters), and "
        f"{data['saving_same_shape']:.1%} fewer than a ViT of its own width and depth (which has "
        "fewer parameters). GFLOPs are twice the GMACs. Counts, not times: those are in the next "
        "figure."
    )


def _bars_by_stage(axis: Axes, rows: list[tuple[str, Any, float, str]], label: str) -> None:
    """Horizontal bars of (name, cost by stage, its scale, what is written at the end)."""
    names = [row[0] for row in rows]
    start = [0.0] * len(rows)
    for stage in [s for s in STAGE_COLOURS if any(stages.get(s) for _, stages, _, _ in rows)]:
        values = [stages.get(stage, 0) * scale for _, stages, scale, _ in rows]
        drawn = axis.barh(names, values, left=start, color=STAGE_COLOURS[stage], height=0.65,
                          label=stage.replace("_", " "))  # fmt: skip
        start = [a + b for a, b in zip(start, values, strict=True)]
    axis.set_xlabel(label)
    axis.invert_yaxis()
    axis.legend(loc="upper center", bbox_to_anchor=(0.45, -0.2), ncols=3, columnspacing=1,
                handlelength=1)  # fmt: skip
    axis.bar_label(drawn, [words for *_, words in rows], padding=4, fontsize=9)


def _agreement(axis: Axes, models: list[dict[str, Any]]) -> None:
    """Difference of each counter from the formula, in percent."""
    names, places = [f"{m['name']}, {TASKS[m['task']]}" for m in models], range(len(models))
    axis.axvspan(-0.1, 0.1, color=GREY, alpha=0.2, linewidth=0, label="0.1 %")
    for key, marker, colour, label in (
        ("macs_with_layer_norm", "D", INTERPOLATION, "fvcore with LayerNorm"),
        ("macs_fvcore", "o", MODEL, "fvcore"),
        ("macs_torch", "x", INK, "PyTorch"),
    ):
        off = [100 * (m[key] / m["macs"] - 1) for m in models]
        axis.plot(off, places, marker, color=colour, label=label)
    axis.set_yticks(list(places), names, fontsize=8.5)
    axis.set(title="counters against the formula", xlabel="difference in %", xlim=(-0.15, 0.3))
    axis.invert_yaxis()
    axis.legend(loc="upper center", bbox_to_anchor=(0.3, -0.17), ncols=2, columnspacing=1,
                handlelength=1)  # fmt: skip


def _regions(axis: Axes, data: dict[str, Any]) -> None:
    """Cost against the number of tokens in a region; shapes of equal size cost the same."""
    sizes = {math.prod(row["region"]): row["macs"] / 1e9 for row in data["regions"]}
    shown = {size: cost for size, cost in sorted(sizes.items()) if size >= 4}
    axis.plot(list(shown), list(shown.values()), "o-", color=MODEL, markersize=4, linewidth=1)
    named: dict[int, list[str]] = {}
    for region in data["named_regions"]:
        named.setdefault(math.prod(region), []).append("x".join(map(str, region)))
    for size, shapes in named.items():
        is_papers = size == math.prod(data["region"])
        axis.plot([size], [sizes[size]], "s" if is_papers else "o", color=INK, markersize=7)
        axis.vlines(size, 44, sizes[size], color=GREY, linewidth=0.6, linestyle=":")
        axis.text(size, 43.6, " or ".join(shapes), fontsize=8, ha="center", va="top", rotation=90)
    joint = data["same_shape"] / 1e9
    axis.axhline(joint, color=INTERPOLATION, linestyle="--", label="ViT 512 x 16: joint attention")
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set(title="LGI-B's cost with each region size", xlabel="tokens in a region (t x h x w)",
             ylabel="GMACs per clip", ylim=(29, 67.5), xlim=(3.4, 1100))  # fmt: skip
    axis.set_yticks(range(45, 66, 5))
    axis.legend(loc="upper right")


@drawing("07_complexity", 9.5, 10.8)
def draw_complexity(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 07: theory, counts, time and memory against the number of tokens."""
    axes = figure.subplots(3, 2)
    rows, growth = data["rows"], data["growth"]
    _curves(axes[0, 0], data, "attention", 1e-9)
    axes[0, 0].set(title="counted: attention in one block", ylabel="GMACs")
    _share(axes[0, 1], rows)
    _curves(axes[1, 0], data, "seconds", 1e3)
    axes[1, 0].set(title="time: a training step of one block", ylabel="milliseconds")
    _cross(axes[1, 0], data["crossings"]["seconds"])
    _curves(axes[1, 1], data, "peak_bytes", 2**-20, _MEMORY)
    axes[1, 1].set(title="memory: the same step at its peak", ylabel="MiB")
    axis, tokens = axes[2, 0], [row["tokens"] for row in growth]
    looks = {"ViT-B": (INTERPOLATION, "-"), "ViT 512 x 16": (INTERPOLATION, "--"),
             "LGI-B": (MODEL, "-")}  # fmt: skip
    for name, (colour, line) in looks.items():
        values = [row["macs"][name] / 1e9 for row in growth]
        axis.plot(tokens, values, line, color=colour, marker="o", markersize=3, label=name)
    _log_tokens(axis, tokens)
    axis.set(title="formula: whole classifiers, longer clips", ylabel="GMACs per clip")
    axis.legend(loc="upper left")
    _cross(axis, data["crossings"]["same_shape"])
    _cheapest(axes[2, 1], growth)
    frames = [row["frames"] for row in rows if row["size_px"] == 160]
    sizes = [row["size_px"] for row in rows if row["frames"] == 16]
    on_cpu = data["provenance"]["device"].startswith("cpu")
    return (
        f"Circles: {min(frames)} to {max(frames)} frames of 160 px; squares: 16 frames of "
        f"{min(sizes)} to {max(sizes)} px. "
        f"Blocks of equal width {data['width']}, batch {data['batch']}; medians of "
        f"alternating runs{', processor time on one thread' if on_cpu else ''}. A step is forward "
        f"and backward. Memory: {data['memory']}. K^b: fitted exponents. The last row is by "
        "formula, at LGI-B's width of 512. One machine and one implementation; a GPU is not "
        "shown."
    )


_MEMORY = {  # curve -> label, colour, line
    "vit_written": ("ViT, weights written out", INTERPOLATION, ":"),
    "lgi_written": ("LGI, weights written out", MODEL, ":"),
    "lgi": ("LGI, fused", MODEL, "-"),
    "vit": ("ViT, fused", INTERPOLATION, "-"),
}
_KINDS = {"vit": ("ViT", INTERPOLATION, "-"), "lgi": ("LGI-Former", MODEL, "-")}


def _curves(
    axis: Axes, data: dict[str, Any], what: str, scale: float, curves: dict[str, Any] = _KINDS
) -> None:
    """One line per curve over tokens, both axes logarithmic, with the exponent in the legend."""
    for name, (label, colour, line) in curves.items():
        values = [scale * row[what][name] for row in data["rows"]]
        label = f"{label}: K^{data['exponents'][what][name]:.2f}"
        _marks(axis, data["rows"], values, colour, line, label)
    _log_tokens(axis, [row["tokens"] for row in data["rows"]])
    axis.legend(loc="upper left")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high * (high / low) ** (0.1 * len(curves)))


def _marks(axis: Axes, rows: list[Any], values: list[float], *look: str) -> None:
    """A line through the lengths at 160 px, squares at the other sizes."""
    colour, line, label = look
    points = zip(rows, values, strict=True)
    lengths, others = [], []
    for row, value in points:
        (lengths if row["size_px"] == 160 else others).append((row["tokens"], value))
    axis.plot(*zip(*lengths, strict=True), line, color=colour, marker="o", markersize=4.5,
              linewidth=1, label=label)  # fmt: skip
    axis.plot(*zip(*others, strict=True), "s", color=colour, markersize=4.5, fillstyle="none")


def _log_tokens(axis: Axes, tokens: list[int]) -> None:
    axis.set(xscale="log", yscale="log", xlabel="tokens K")
    low, high = min(tokens), max(tokens)
    ticks = [t for t in (200, 400, 800, 1600, 3200, 6400) if 0.9 * low <= t <= 1.1 * high]
    axis.set_xticks(ticks, [str(t) for t in ticks])
    axis.xaxis.set_minor_locator(NullLocator())


def _share(axis: Axes, rows: list[dict[str, Any]]) -> None:
    """LGI's attention as a share of ViT's: the paper's formula, counted, measured."""
    _marks(axis, rows, [row["share"]["time"] for row in rows], ZERO, "--",
           "time of attention alone")  # fmt: skip
    _marks(axis, rows, [row["share"]["counted"] for row in rows], MODEL, "", "counted")
    tokens = [row["tokens"] for row in rows]
    theory = [row["share"]["theory"] for row in rows]
    axis.plot(tokens, theory, color=INK, linewidth=1, label="theory: 1/M + 1/N² + 1/N")
    _log_tokens(axis, tokens)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0%}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set(title="LGI's attention as a share of joint attention", ylabel="share")
    axis.set_ylim(0.015, 1)
    axis.legend(loc="upper right")


def _cross(axis: Axes, tokens: float | None) -> None:
    if tokens is not None:
        axis.axvline(tokens, ymax=0.6, color=GREY, linestyle="--", linewidth=1)
        axis.annotate(f"cross at {tokens:.0f}", (tokens, 0.02), (4, 0), fontsize=9, color=GREY,
                      xycoords=axis.get_xaxis_transform(), textcoords="offset points")  # fmt: skip


def _cheapest(axis: Axes, growth: list[dict[str, Any]]) -> None:
    """Tokens of the cheapest region, against the optimum by formula."""
    tokens = [row["tokens"] for row in growth]
    for cost, label, colour, ideal in (
        ("all", "all of the block: √(K + 9C)", MODEL, lambda k: math.sqrt(k + 9 * 512)),
        ("attention", "attention alone: √K", ZERO, math.sqrt),
    ):
        best = [math.prod(row["cheapest"][cost]) for row in growth]
        axis.plot(tokens, [ideal(k) for k in tokens], "-", color=colour, linewidth=1, label=label)
        axis.plot(tokens, best, "o", color=colour, markersize=4.5)
        for row, size in zip(growth, best, strict=True):
            if row["frames"] in (8, 16, 48, 128):
                place = {"xytext": (4, -7), "ha": "left", "va": "top"}
                if cost == "all":
                    place = {"xytext": (0, 12), "ha": "center", "va": "bottom"}
                axis.annotate("x".join(map(str, row["cheapest"][cost])), (row["tokens"], size),
                              zorder=3, bbox=ON_WHITE, textcoords="offset points", fontsize=8.5,
                              **place)  # fmt: skip
    axis.axhline(100, color=GREY, linestyle="--", linewidth=1, label="the paper's 2x5x10")
    _log_tokens(axis, tokens)
    axis.set(ylim=(7, 500), xlim=(140, 9500))
    axis.set_yticks([10, 20, 50, 100, 200], ["10", "20", "50", "100", "200"])
    axis.set(title="formula: the cheapest region", ylabel="tokens N in a region")
    axis.legend(loc="upper left", ncols=1)
