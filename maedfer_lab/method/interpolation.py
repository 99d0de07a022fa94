"""What can be said of hidden cubes from the visible ones alone, without any model.

The baseline that a masked autoencoder has to beat, and the statistics with which predictions in
cube units become pictures that borrow nothing from hidden pixels.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from maedfer_lab.config import Shape3, TargetConfig
from maedfer_lab.method.grid import Grid, grid_of, patchify, take
from maedfer_lab.method.masking import TokenSplit
from maedfer_lab.method.targets import CubeStatistics, cube_statistics, make_target

DEVIATION_FLOOR = 1 / 255  # a flatter cube holds no contrast that could be interpolated


def interpolate_visible(
    values: Float[Tensor, "b v q"],
    visible: Int[Tensor, "b v"],
    grid: Grid,
    points_per_token: int = 1,
) -> Float[Tensor, "b t y x q"]:
    """Spread values of visible tokens over every frame of the token grid.

    Inverse squared distance weighting (Shepard 1968) among the visible tokens of the same time
    step, sampled at `points_per_token` x `points_per_token` points per token. Of the simple
    rules tried on real faces (nearest cube, Gaussian kernels, other powers) this one came
    closest to the hidden pixels.
    """
    v = values.shape[1]
    if v % grid.t:
        raise ValueError(
            f"{v} visible tokens in {grid.t} time steps: interpolation needs equally many in each "
            "step; use a tube mask"
        )
    in_time = visible.sort(1)
    place = rearrange(in_time.values, "b (t k) -> b t k", t=grid.t)
    step = torch.arange(grid.t, device=place.device)[:, None]
    if bool((place // (grid.h * grid.w) != step).any()):
        raise ValueError("mask: the time steps keep different numbers of tokens; use a tube mask")
    place = place % (grid.h * grid.w)
    values = rearrange(take(values, in_time.indices), "b (t k) q -> b t k q", t=grid.t)
    y, x = (
        (torch.arange(side * points_per_token, device=place.device) + 0.5) / points_per_token
        for side in (grid.h, grid.w)
    )
    dy = y[:, None] - (place // grid.w + 0.5)[:, :, None]  # (b t y k)
    dx = x[:, None] - (place % grid.w + 0.5)[:, :, None]
    distance = dy.square()[:, :, :, None] + dx.square()[:, :, None]  # (b t y x k)
    weight = 1 / (distance + 1 / 16)  # a quarter token: smooth at a cube's own centre
    weight = weight / weight.sum(-1, keepdim=True)
    return torch.einsum("btyxk,btkq->btyxq", weight, values.float())


def interpolated_clip(
    clip: Float[Tensor, "b c T H W"], split: TokenSplit, tubelet: Shape3
) -> Float[Tensor, "b c T H W"]:
    """The clip as interpolated from the mean colours of its visible cubes, frame by frame."""
    grid, (pt, ph, pw) = grid_of(clip, tubelet), tubelet
    cubes = take(patchify(clip, tubelet), split.visible)
    colours = rearrange(cubes, "b v (pt k c) -> b v pt k c", pt=pt, k=ph * pw).mean(3)
    points = max(ph, pw)
    spread = interpolate_visible(colours.flatten(2), split.visible, grid, points)
    if ph != pw:
        rows = torch.arange(grid.h * ph, device=clip.device) * points // ph
        columns = torch.arange(grid.w * pw, device=clip.device) * points // pw
        spread = spread[:, :, rows][:, :, :, columns]
    return rearrange(spread, "b t y x (pt c) -> b c (t pt) y x", pt=pt)


def interpolation_baseline(
    clip: Float[Tensor, "b c T H W"], split: TokenSplit, tubelet: Shape3, config: TargetConfig
) -> Float[Tensor, "b m p"]:
    """Interpolation's prediction of the masked tokens, in the units of the model's targets."""
    statistics = None
    if config.units == "cube":
        statistics = cube_statistics(patchify(clip, tubelet), clip.shape[1])
    target = make_target(interpolated_clip(clip, split, tubelet), tubelet, config, statistics)
    return take(target, split.masked)


def visible_statistics(
    clip: Float[Tensor, "b c T H W"], split: TokenSplit, tubelet: Shape3
) -> CubeStatistics:
    """Cube statistics that borrow nothing: interpolated from visible cubes for hidden ones."""
    grid = grid_of(clip, tubelet)
    own = cube_statistics(take(patchify(clip, tubelet), split.visible), clip.shape[1])
    spread = interpolate_visible(torch.cat([own.mean, own.std], -1), split.visible, grid)
    mean, std = spread.flatten(1, 3).chunk(2, -1)
    at = split.visible.unsqueeze(-1).expand_as(own.mean)
    return CubeStatistics(
        mean.scatter(1, at, own.mean), std.clamp(min=DEVIATION_FLOOR).scatter(1, at, own.std)
    )
