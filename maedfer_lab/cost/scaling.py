"""How cost grows with the clip, by formula: theory, whole models, the cheapest regions, fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from maedfer_lab.config import ModelConfig, Shape3, base
from maedfer_lab.cost.formula import encoder_block, macs, num_regions, token_grid
from maedfer_lab.method.grid import Grid, region_shapes

REGION_TOKENS = 100  # of the paper's region, 2 x 5 x 10


def theoretical_share(num_tokens: int, num_regions: int) -> float:
    """Attention of LGI-Former as a share of joint attention: 1/M + 1/N^2 + 1/N.

    Sun et al., section 3.2, with M regions of N tokens; representative tokens are left out of
    stage 1 there, which is why the counted share is a little larger.
    """
    size = num_tokens / num_regions
    return 1 / num_regions + 1 / size**2 + 1 / size


def region_like_papers(grid: Shape3) -> Shape3:
    """The region of two time steps that is nearest to the paper's 100 tokens on this grid.

    (2, 5, 10) on 8 x 10 x 10; other grids need other shapes, since a region must divide them.
    """
    shapes = [s for s in region_shapes(Grid(*grid)) if s[0] == min(2, grid[0])]
    if not shapes:
        raise ValueError(
            f"grid={grid} has no region of two time steps; use a clip whose frames are a multiple "
            "of two tubelets"
        )
    return min(shapes, key=lambda s: (abs(math.prod(s) - REGION_TOKENS), -s[2]))


def of_clip(config: ModelConfig, frames: int, size_px: int) -> ModelConfig:
    """The same model for another clip, with a region like the paper's."""
    config = replace(config, frames=frames, size_px=size_px)
    return replace(config, region=region_like_papers(token_grid(config)))


def block_cost(config: ModelConfig) -> dict[str, int]:
    """One encoder block's multiply-adds: "attention" among tokens, and "all" of it."""
    parts = encoder_block(config).values()
    return {
        "attention": sum(part.attention for part in parts),
        "all": sum(part.macs for part in parts),
    }


def cheapest_region(config: ModelConfig, cost: str = "all") -> Shape3:
    """The region whose block costs least; of equals the widest, then the highest.

    cost: "attention" counts products among tokens alone, and N = sqrt(K) tokens are best; "all"
        counts the linear layers too, which each representative token also goes through, and
        N = sqrt(K + 9 C) are (width C, MLP ratio 4).
    """
    grid = Grid(*token_grid(config))
    return min(
        region_shapes(grid),
        key=lambda s: (block_cost(replace(config, region=s))[cost], -s[2], -s[1]),
    )


def counted_crossing(width: int) -> float | None:
    """Tokens from which an LGI-Former block costs less than a ViT block of the same width.

    By formula, with the paper's regions, from 200 to 6400 tokens: about C + N of them.
    """
    model = ModelConfig(width=width, num_heads=1)
    clips = [of_clip(model, frames, 160) for frames in range(4, 132, 4)]
    return crossing(
        [math.prod(token_grid(clip)) for clip in clips],
        [block_cost(clip)["all"] for clip in clips],
        [block_cost(replace(clip, encoder="vit"))["all"] for clip in clips],
    )


def growth(frames: Sequence[int] = (4, 8, 16, 32, 48, 64, 96, 128)) -> list[dict[str, Any]]:
    """Whole classifiers and cheapest regions, by formula, as the clip gets longer (160 px).

    Counts are multiply-adds as published: of LGI-B, of ViT-B, of LGI-B's width and depth with
    joint attention, and of LGI-B with the cheapest region.
    """
    lgi, vit = base().model, base("vit").model
    same = replace(lgi, encoder="vit")
    rows = []
    for count in frames:
        clip = of_clip(lgi, count, 160)
        best = {cost: cheapest_region(clip, cost) for cost in ("attention", "all")}
        models = {
            "LGI-B": clip,
            "ViT-B": replace(vit, frames=count),
            "ViT 512 x 16": replace(same, frames=count),
            "LGI-B, cheapest region": replace(clip, region=best["all"]),
        }
        rows.append(
            {
                "frames": count,
                "tokens": math.prod(token_grid(clip)),
                "macs": {k: sum(macs(m, as_published=True).values()) for k, m in models.items()},
                "cheapest": best,
                "theory": theoretical_share(math.prod(token_grid(clip)), num_regions(clip)),
            }
        )
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Fitted exponents of what `complexity.measure` gives, and where LGI's curves fall below ViT's.

    "crossings" are numbers of tokens, None where LGI is cheaper (or dearer) all along.
    """
    tokens = [row["tokens"] for row in rows]
    curves = {
        what: {name: [row[what][name] for row in rows] for name in rows[0][what]}
        for what in ("attention", "all", "attention_seconds", "seconds", "peak_bytes")
    }
    return {
        "exponents": {
            what: {name: exponent(tokens, values) for name, values in by_name.items()}
            for what, by_name in curves.items()
        },
        "crossings": {
            what: crossing(tokens, by_name["lgi"], by_name["vit"])
            for what, by_name in curves.items()
        },
    }


def exponent(tokens: Sequence[float], values: Sequence[float]) -> float:
    """The b of values ~ tokens^b: the slope of a straight line through the logarithms."""
    return float(np.polyfit(np.log(tokens), np.log(values), 1)[0])


def crossing(
    tokens: Sequence[float], first: Sequence[float], second: Sequence[float]
) -> float | None:
    """Number of tokens from which `first` costs less than `second`; None if they do not cross.

    Interpolated between neighbours on logarithmic axes; the last crossing if there are several.
    """
    order = np.argsort(tokens)
    x = np.log(np.asarray(tokens, float)[order])
    gap = np.log(np.asarray(first, float)[order] / np.asarray(second, float)[order])
    falls = np.flatnonzero((gap[:-1] > 0) & (gap[1:] <= 0))
    if not len(falls):
        return None
    i = int(falls[-1])
    return float(np.exp(x[i] + (x[i + 1] - x[i]) * gap[i] / (gap[i] - gap[i + 1])))
