"""From a clip to tubelet tokens and back; the token grid, its local regions and positions.

Axis letters, here and everywhere: `b` batch, `c` colour, `T H W` pixels, `t h w` token grid,
`n` tokens, `v` visible, `m` masked, `r` regions, `s` tokens per region, `d` encoder width,
`e` decoder width, `a` heads, `p` values per tubelet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from maedfer_lab.config import ModelConfig, PositionKind, Shape3
from maedfer_lab.config.model import check_triple


@dataclass(frozen=True)
class Grid:
    """Token grid of a clip: `t` x `h` x `w` tubelets; a token's index runs over w fastest."""

    t: int
    h: int
    w: int

    @property
    def n(self) -> int:
        """Number of tokens (800 for the paper's 16 x 160 x 160 clip)."""
        return self.t * self.h * self.w

    @property
    def shape(self) -> Shape3:
        """The grid as a tuple (t, h, w)."""
        return self.t, self.h, self.w

    @classmethod
    def of_clip(cls, frames: int, height: int, width: int, tubelet: Shape3) -> Grid:
        """Grid of a clip of `frames` x `height` x `width` pixels cut into `tubelet` cubes."""
        clip = (frames, height, width)
        check_triple("tubelet", tubelet)
        axes = list(zip(clip, tubelet, strict=True))
        if min(tubelet) < 1 or min(clip) < 1 or any(c % p for c, p in axes):
            fit = tuple(max(p, c // p * p) if p > 0 else c for c, p in axes)
            raise ValueError(
                f"tubelet={tubelet} does not divide the clip (frames, height, width)={clip}; it "
                f"divides {fit}"
            )
        return cls(*(c // p for c, p in axes))


def grid_of(clip: Float[Tensor, "b c T H W"], tubelet: Shape3) -> Grid:
    """Token grid of a batch of clips."""
    frames, height, width = clip.shape[2:]
    return Grid.of_clip(frames, height, width, tubelet)


def check_clip(clip: Any, config: ModelConfig, dtype: torch.dtype | None = None) -> None:
    """Raise unless `clip` is a float tensor (b, 3, frames, size_px, size_px) in [0, 1].

    dtype: of the model's parameters; the clip must have the same (unless autocast casts both).
    Values are checked only on the CPU: on an accelerator every step would wait.
    """
    if not isinstance(clip, Tensor):
        raise ValueError(
            f"clip is a {type(clip).__name__}, not a tensor; use torch.as_tensor(clip).float()"
        )
    want, why = (3, config.frames, config.size_px, config.size_px), ""
    if clip.ndim != 5 or tuple(clip.shape[1:]) != want:
        hint = "; add the batch axis: clip[None]" if clip.ndim == 4 else ""
        why = (f"of shape {tuple(clip.shape)} does not fit this model, which takes (batch, colour, "
               f"frames, height, width) = (b, {', '.join(map(str, want))}){hint}")  # fmt: skip
    elif not clip.is_floating_point():
        why = (f"of dtype {clip.dtype} must be floating point with pixels in [0, 1]; divide bytes "
               "by 255 (data.transforms.to_tensor does)")  # fmt: skip
    elif dtype not in (None, clip.dtype) and not torch.is_autocast_enabled(clip.device.type):
        why = f"of dtype {clip.dtype} does not fit the model's {dtype}; use clip.to({dtype})"
    elif clip.device.type == "cpu" and clip.numel() and not torch.compiler.is_compiling():
        low, high = (float(x) for x in torch.aminmax(clip.detach()))
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # also true for NaN
            why = (f"has values from {low:g} to {high:g}; pixels must be finite and lie in [0, 1] "
                   "(the model normalises them itself; divide bytes by 255)")  # fmt: skip
    if why:
        raise ValueError(f"clip {why}")


def patchify(clip: Float[Tensor, "b c T H W"], tubelet: Shape3) -> Float[Tensor, "b n p"]:
    """Cut a clip into tubelets; values within a tubelet in the order (frame, row, column, colour).

    The order of the official targets: the first frame's values come first, so that the rows of
    the decoder's output that predict appearance and motion are contiguous.
    """
    pt, ph, pw = tubelet
    grid_of(clip, tubelet)
    form = "b c (t pt) (h ph) (w pw) -> b (t h w) (pt ph pw c)"
    return rearrange(clip, form, pt=pt, ph=ph, pw=pw)


def unpatchify(
    cubes: Float[Tensor, "b n p"], grid: Grid, tubelet: Shape3
) -> Float[Tensor, "b c T H W"]:
    """Inverse of `patchify`."""
    pt, ph, pw = tubelet
    form = "b (t h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)"
    return rearrange(cubes, form, t=grid.t, h=grid.h, w=grid.w, pt=pt, ph=ph, pw=pw)


def check_region(grid: Grid, region: Shape3) -> None:
    """Raise unless local regions of `region` tokens (t, h, w) tile `grid`."""
    check_triple("region", region)
    if min(region) < 1 or any(g % r for g, r in zip(grid.shape, region, strict=True)):
        good = min(region_shapes(grid),
                   key=lambda s: [abs(a - b) for a, b in zip(s, region, strict=True)])  # fmt: skip
        raise ValueError(
            f"region={tuple(region)} does not divide the token grid {grid.shape}; each side must "
            f"divide the grid's, for example region={good} (`region_shapes(grid)` lists all)"
        )


def region_shapes(grid: Grid) -> list[Shape3]:
    """Every region shape (t, h, w) that divides the grid, smallest first."""
    sides = ([k for k in range(1, side + 1) if side % k == 0] for side in grid.shape)
    return sorted(product(*sides), key=lambda shape: (math.prod(shape), shape))  # type: ignore


@lru_cache(maxsize=64)
def _region_index(grid: Grid, region: Shape3) -> Tensor:
    check_region(grid, region)
    (t, h, w), tokens = region, torch.arange(grid.n).view(grid.shape)
    form = "(nt t) (nh h) (nw w) -> (nt nh nw) (t h w)"
    return rearrange(tokens, form, t=t, h=h, w=w).contiguous()


def region_index(grid: Grid, region: Shape3) -> Int[Tensor, "r s"]:
    """Token indices of each local region, regions and tokens within them in (t, h, w) order.

    *Official:* equal to the fine-tuning partition; the pre-training partition is right only for
    regions of full width (see `masking.split_tokens`).
    """
    shape = region[0], region[1], region[2]
    if torch.compiler.is_compiling():  # which cannot use caches
        return _region_index.__wrapped__(grid, shape)
    return _region_index(grid, shape).clone()


def sincos_positions(num_tokens: int, width: int) -> Float[Tensor, "n d"]:
    """Fixed sine-cosine positions over the token index, for any grid.

    Channel j of token i is sin (even j) or cos (odd j) of i / 10000^(2 floor(j/2) / width).
    Computed in float64 and rounded once, as the official table is: the two are bit-equal.
    """
    channel = np.arange(width)
    angle = np.arange(num_tokens)[:, None] / np.power(10000.0, 2 * (channel // 2) / width)
    table = np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))
    return torch.from_numpy(table.astype(np.float32))


def grid_positions(grid: Grid, width: int) -> Float[Tensor, "n d"]:
    """Fixed positions in three equal parts, for a token's place in t, h and w.

    Not the paper's: a small run need not learn which tokens are vertical neighbours.
    """
    if width % 6:
        raise ValueError(
            f"width={width} must be a multiple of 6 for positions='grid' (sine and cosine of three "
            f"axes), such as {width // 6 * 6 or 6}; or use positions='sequence'"
        )
    axes = torch.meshgrid(*map(torch.arange, grid.shape), indexing="ij")
    return torch.cat([sincos_positions(side, width // 3)[axis.flatten()]
                      for side, axis in zip(grid.shape, axes, strict=True)], 1)  # fmt: skip


def position_table(grid: Grid, width: int, kind: PositionKind) -> Float[Tensor, "n d"]:
    """Positions of all tokens of a grid, "sequence" or "grid"."""
    return sincos_positions(grid.n, width) if kind == "sequence" else grid_positions(grid, width)


def take(x: Float[Tensor, "b n d"], index: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """Rows of `x` named by `index`, per clip."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def take_cubes(
    clip: Float[Tensor, "b c T H W"], tubelet: Shape3, index: Int[Tensor, "b k"]
) -> Float[Tensor, "b k p"]:
    """The cubes of `patchify` that `index` names, per clip; no other pixel is read."""
    grid, (pt, ph, pw) = grid_of(clip, tubelet), tubelet
    form = "b c (t pt) (h ph) (w pw) -> b t h w pt ph pw c"
    cubes = rearrange(clip, form, pt=pt, ph=ph, pw=pw)  # a view
    row = torch.arange(len(clip), device=clip.device).unsqueeze(1)
    frame, place = index // (grid.h * grid.w), index % (grid.h * grid.w)
    return cubes[row, frame, place // grid.w, place % grid.w].flatten(2)
