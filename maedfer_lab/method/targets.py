"""What the decoder predicts: appearance and motion of hidden cubes; their inverses; the loss.

Shapes: clips are (b c T H W) with pixels in [0, 1]; targets and predictions are (b n p) in the
order of `grid.patchify`, so that p is (frame, row, column, colour).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maedfer_lab.config import ModelConfig, Shape3, TargetConfig, find_own
from maedfer_lab.method.grid import Grid, grid_of, patchify, take, take_cubes, unpatchify

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CUBE_EPS = 1e-6  # added to a cube's deviation, as in the official code


Losses = dict[str, float]  # "appearance" and "motion"


def normalise_pixels(clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b c T H W"]:
    """Pixels in [0, 1] to ImageNet-normalised units (mean 0, deviation 1 over ImageNet)."""
    mean, std = _imagenet(clip)
    return (clip - mean) / std


def unnormalise_pixels(clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b c T H W"]:
    """Inverse of `normalise_pixels`; not clipped to [0, 1]."""
    mean, std = _imagenet(clip)
    return clip * std + mean


def normalise_cube_pixels(cubes: Float[Tensor, "b n p"]) -> Float[Tensor, "b n p"]:
    """`normalise_pixels` for the three colours of cut cubes."""
    mean, std = (x.flatten() for x in _imagenet(cubes))
    return ((cubes.unflatten(2, (-1, len(mean))) - mean) / std).flatten(2)


def _imagenet(like: Tensor) -> tuple[Tensor, Tensor]:
    if torch.compiler.is_compiling():  # then they belong to the graph
        return _constants.__wrapped__(like.dtype, like.device)
    return _constants(like.dtype, like.device)


@lru_cache(maxsize=8)
def _constants(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation to broadcast over clips, kept: to send them anew would make a GPU wait."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(x, dtype=dtype).to(device) for x in (IMAGENET_MEAN, IMAGENET_STD))
        return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)


@dataclass(frozen=True)
class CubeStatistics:
    """Mean and deviation of every cube and colour over the cube's pixels, both (b n c)."""

    mean: Float[Tensor, "b n c"]
    std: Float[Tensor, "b n c"]


def cube_statistics(cubes: Float[Tensor, "b n p"], colours: int = 3) -> CubeStatistics:
    """Statistics per cube and colour; the deviation is the unbiased one, plus 1e-6."""
    x = rearrange(cubes, "b n (q c) -> b n q c", c=colours)
    mean = x.mean(2)
    # Written out, since torch's own deviation takes one value at a time on a CPU.
    variance = (x - mean.unsqueeze(2)).square().sum(2) / (x.shape[2] - 1)
    return CubeStatistics(mean, variance.sqrt() + CUBE_EPS)


def normalise_cubes(
    cubes: Float[Tensor, "b n p"], statistics: CubeStatistics
) -> Float[Tensor, "b n p"]:
    """(cube - mean) / deviation, per colour over all pixels of the cube (both frames together)."""
    x = rearrange(cubes, "b n (q c) -> b n q c", c=statistics.mean.shape[-1])
    x = (x - statistics.mean.unsqueeze(2)) / statistics.std.unsqueeze(2)
    return rearrange(x, "b n q c -> b n (q c)")


def unnormalise_cubes(
    cubes: Float[Tensor, "b n p"], statistics: CubeStatistics
) -> Float[Tensor, "b n p"]:
    """Inverse of `normalise_cubes`."""
    x = rearrange(cubes, "b n (q c) -> b n q c", c=statistics.mean.shape[-1])
    x = x * statistics.std.unsqueeze(2) + statistics.mean.unsqueeze(2)
    return rearrange(x, "b n q c -> b n (q c)")


def split_motion(
    cubes: Float[Tensor, "b n p"], grid: Grid, tubelet: Shape3, group: int = 2
) -> Float[Tensor, "b n p"]:
    """First frame of each group stays (appearance); it is taken from the others (motion).

    Groups of 2 are the paper's even and odd frames: V_a = V[0::2], V_m = V[1::2] - V[0::2].
    Where groups do not reach from cube to cube, `cubes` may be any of a clip's.
    """
    if tubelet[0] % group == 0:
        x = rearrange(cubes, "b n (k g q) -> b n k g q", k=tubelet[0] // group, g=group)
        first = x[:, :, :, :1]
        return torch.cat([first, x[:, :, :, 1:] - first], 3).flatten(2)
    x = _by_group(cubes, grid, tubelet, group)
    first = x[:, :, :, :1]
    return _by_cube(torch.cat([first, x[:, :, :, 1:] - first], 3), grid, tubelet)


def add_motion(
    target: Float[Tensor, "b n p"], grid: Grid, tubelet: Shape3, group: int = 2
) -> Float[Tensor, "b n p"]:
    """Inverse of `split_motion`: every later frame is the group's first plus its own motion."""
    x = _by_group(target, grid, tubelet, group)
    first = x[:, :, :, :1]
    return _by_cube(torch.cat([first, x[:, :, :, 1:] + first], 3), grid, tubelet)


def _by_group(cubes: Tensor, grid: Grid, tubelet: Shape3, group: int) -> Tensor:
    frames = grid.t * tubelet[0]
    if frames % group:
        raise ValueError(
            f"motion_group={group} must divide the clip's {frames} frames; the paper's is 2"
        )
    frames_first = rearrange(
        cubes, "b (t s) (pt q) -> b s (t pt) q", t=grid.t, s=grid.h * grid.w, pt=tubelet[0]
    )
    return rearrange(frames_first, "b s (k g) q -> b s k g q", g=group)


def _by_cube(x: Tensor, grid: Grid, tubelet: Shape3) -> Tensor:
    x = rearrange(x, "b s k g q -> b s (k g) q")
    return rearrange(x, "b s (t pt) q -> b (t s) (pt q)", t=grid.t, pt=tubelet[0])


def motion_frames(
    grid: Grid, tubelet: Shape3, group: int, device: torch.device | None = None
) -> Bool[Tensor, "n pt"]:
    """Which frames of each token's cube carry motion (True) and which appearance (False)."""
    frame = torch.arange(grid.t * tubelet[0], device=device).view(grid.t, tubelet[0])
    return (frame % group != 0).repeat_interleave(grid.h * grid.w, 0)


def make_target(
    clip: Float[Tensor, "b c T H W"],
    tubelet: Shape3,
    config: TargetConfig,
    statistics: CubeStatistics | None = None,
    index: Int[Tensor, "b m"] | None = None,
) -> Float[Tensor, "b n2 p"]:
    """Target of every token, or of those named by `index` alone.

    clip: pixels in [0, 1]; the targets' units are as `config` says.
    statistics: for targets in cube units, the ones to normalise these cubes by (default: the
        clip's own).

    *Official:* cubes are normalised first and differenced after, so motion is in units of each
    cube's own deviation. The paper's formula differences raw pixels: `units="pixel"`.
    """
    grid = grid_of(clip, tubelet)
    if (own := find_own("target", config.function)) is not None:
        target = _check_own(own.make(clip, tubelet), config.function, len(clip), grid)
        return target if index is None else take(target, index)
    if index is None:
        cubes = patchify(clip, tubelet)
    elif config.motion and tubelet[0] % config.motion_group:  # motion from cube to cube
        return take(make_target(clip, tubelet, config, statistics), index)
    else:
        cubes = take_cubes(clip, tubelet, index)
    if config.units == "imagenet":
        cubes = normalise_cube_pixels(cubes)
    if config.units == "cube":
        cubes = normalise_cubes(cubes, statistics or cube_statistics(cubes, clip.shape[1]))
    if config.motion:
        cubes = split_motion(cubes, grid, tubelet, config.motion_group)
        moving = motion_frames(grid, tubelet, config.motion_group, cubes.device)
        moving = moving if index is None else moving[index]
        cubes = _scale_motion(cubes, moving, config.motion_scale)
    return cubes


def _check_own(target: Tensor, name: str, num_clips: int, grid: Grid) -> Tensor:
    if target.ndim != 3 or target.shape[:2] != (num_clips, grid.n):
        raise ValueError(
            f"function={name!r} gives targets of shape {tuple(target.shape)}; they must be "
            f"(b n p), here ({num_clips}, {grid.n}, p); patchify(maps, tubelet) gives such"
        )
    return target


def target_width(model: ModelConfig, config: TargetConfig) -> int:
    """Values of a token's target (p): the pixels of its cube, or what an own function gives."""
    if not config.function:
        return math.prod(model.tubelet) * len(IMAGENET_MEAN)
    clip = torch.zeros(1, 3, model.frames, model.size_px, model.size_px)
    return make_target(clip, model.tubelet, config).shape[-1]


def invert_target(
    target: Float[Tensor, "b n p"],
    grid: Grid,
    tubelet: Shape3,
    config: TargetConfig,
    statistics: CubeStatistics | None = None,
) -> Float[Tensor, "b c T H W"]:
    """Inverse of `make_target`: a clip with pixels in [0, 1] units (not clipped).

    statistics: needed for targets in cube units: each cube's own (true) ones, or ones that are
        estimated from the visible cubes alone (`visible_statistics`).
    """
    if config.function:
        raise ValueError(
            f"function={config.function!r} is an own target, which cannot be turned into pixels; "
            "reconstructions need a model of pixels and motion"
        )
    cubes = target
    if config.motion:
        moving = motion_frames(grid, tubelet, config.motion_group, cubes.device)
        cubes = _scale_motion(cubes, moving, 1 / config.motion_scale)
        cubes = add_motion(cubes, grid, tubelet, config.motion_group)
    if config.units == "cube":
        if statistics is None:
            raise ValueError(
                "statistics=None: targets in cube units need the cubes' mean and deviation; pass "
                "cube_statistics(patchify(clip, tubelet)) or visible_statistics(...)"
            )
        return unpatchify(unnormalise_cubes(cubes, statistics), grid, tubelet)
    clip = unpatchify(cubes, grid, tubelet)
    return unnormalise_pixels(clip) if config.units == "imagenet" else clip


def _scale_motion(cubes: Tensor, moving: Tensor, scale: float) -> Tensor:
    """moving: which frames of these cubes (... pt)."""
    if scale == 1:
        return cubes
    factor = torch.where(moving, scale, 1.0).to(cubes.dtype)
    x = rearrange(cubes, "b n (pt q) -> b n pt q", pt=moving.shape[-1])
    return (x * factor.unsqueeze(-1)).flatten(2)


@dataclass(frozen=True)
class Loss:
    """Mean squared errors over masked tokens; `total` is what is minimised.

    total = (1 - motion_weight) appearance + motion_weight motion, the paper's loss with
    lambda = 1 - motion_weight. Without motion targets (VideoMAE) motion is 0 and total is
    appearance.
    """

    total: Float[Tensor, ""]
    appearance: Float[Tensor, ""]
    motion: Float[Tensor, ""]


def reconstruction_loss(
    prediction: Float[Tensor, "b m p"],
    target: Float[Tensor, "b m p"],
    masked: Int[Tensor, "b m"],
    grid: Grid,
    tubelet: Shape3,
    config: TargetConfig,
) -> Loss:
    """Loss over masked tokens; `masked` are their indices in the grid."""
    error = (prediction.float() - target.float()).square()
    if not config.motion:
        total = error.mean()
        return Loss(total, total, torch.zeros_like(total))
    error = reduce(error, "b m (pt q) -> b m pt", "mean", pt=tubelet[0])
    moving = motion_frames(grid, tubelet, config.motion_group, error.device)[masked]
    motion = (error * moving).sum() / moving.sum()
    appearance = (error * ~moving).sum() / (~moving).sum()
    w = config.motion_weight
    return Loss((1 - w) * appearance + w * motion, appearance, motion)
