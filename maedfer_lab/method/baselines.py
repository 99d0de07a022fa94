"""Two more guesses at hidden cubes that need no model, beside zero and interpolation."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from maedfer_lab.config import Shape3
from maedfer_lab.method.grid import Grid, grid_of, patchify, take, unpatchify
from maedfer_lab.method.masking import TokenSplit

BASELINES = {
    "interpolation": "interpolation of visible colours",
    "nearest": "copy of the nearest visible cube",
    "mean": "mean colour of the visible cubes",
    "zero": "zero in units of the targets",
}


def mean_clip(
    clip: Float[Tensor, "b c T H W"], split: TokenSplit, tubelet: Shape3
) -> Float[Tensor, "b c T H W"]:
    """Every frame in the mean colour of its visible cubes (equally many in each time step)."""
    grid, (pt, ph, pw) = grid_of(clip, tubelet), tubelet
    seen = take(patchify(clip, tubelet), split.visible.sort(1).values)
    colours = rearrange(seen, "b (t k) (pt q c) -> b t k pt q c", t=grid.t, pt=pt, q=ph * pw).mean(
        (2, 4)
    )
    return repeat(colours, "b t pt c -> b c (t pt) H W", H=clip.shape[3], W=clip.shape[4])


def nearest_clip(
    clip: Float[Tensor, "b c T H W"], split: TokenSplit, tubelet: Shape3
) -> Float[Tensor, "b c T H W"]:
    """Every cube is a copy of the nearest visible cube, of its own time step if it has one."""
    grid = grid_of(clip, tubelet)
    place = _coordinates(grid, clip.device)
    nearest = torch.stack([
        visible[torch.cdist(place, place[visible]).argmin(1)] for visible in split.visible
    ])  # fmt: skip
    return unpatchify(take(patchify(clip, tubelet), nearest), grid, tubelet)


def _coordinates(grid: Grid, device: torch.device) -> Float[Tensor, "n 3"]:
    """(t, y, x) of each token, time stretched so that another step is further than any place."""
    axes: list[Int[Tensor, " side"]] = [torch.arange(side, device=device) for side in grid.shape]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 3).float()
    return place * place.new_tensor([grid.h + grid.w, 1, 1])
