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
CUBE_EPS = 1e-6  # added to a cube's standard deviation, as in the official code

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
    # In compiled code they are part of the graph.
    make = _constants.__wrapped__ if torch.compiler.is_compiling() else _constants
    return make(like.dtype, like.device)


@lru_cache(maxsize=8)
def _constants(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation to broadcast over clips, cached: sending them would make a GPU wait."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(x, dtype=dtype).to(device) for x in (IMAGENET_MEAN, IMAGENET_STD))
        return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)


@dataclass(frozen=True)
class CubeStatistics:
    """Mean and standard deviation of every cube and colour over the cube's pixels."""

    mean: Float[Tensor, "b n c"]
    std: Float[Tensor, "b n c"]


def cube_statistics(cubes: Float[Tensor, "b n p"], colours: int = 3) -> CubeStatistics:
    """Statistics per cube and colour; the deviation is the unbiased one, plus 1e-6."""
    x = cubes.unflatten(2, (-1, colours))
    mean = x.mean(2)
    # Explicit, since torch's own deviation is not vectorised on a CPU.
    variance = (x - mean.unsqueeze(2)).square().sum(2) / (x.shape[2] - 1)
    return CubeStatistics(mean, variance.sqrt() + CUBE_EPS)


def normalise_cubes(
    cubes: Float[Tensor, "b n p"], statistics: CubeStatistics
) -> Float[Tensor, "b n p"]:
    """(cube - mean) / deviation, per colour over all pixels of the cube (both frames together)."""
    x = cubes.unflatten(2, (-1, statistics.mean.shape[-1]))
    return ((x - statistics.mean.unsqueeze(2)) / statistics.std.unsqueeze(2)).flatten(2)


def unnormalise_cubes(
    cubes: Float[Tensor, "b n p"], statistics: CubeStatistics
) -> Float[Tensor, "b n p"]:
    """Inverse of `normalise_cubes`."""
    x = cubes.unflatten(2, (-1, statistics.mean.shape[-1]))
    return (x * statistics.std.unsqueeze(2) + statistics.mean.unsqueeze(2)).flatten(2)


def split_motion(
    cubes: Float[Tensor, "b n p"], grid: Grid, tubelet: Shape3, group: int = 2
) -> Float[Tensor, "b n p"]:
    """Keep the first frame of each group (appearance); subtract it from the others (motion).

    Groups of 2 are the paper's even and odd frames: V_a = V[0::2], V_m = V[1::2] - V[0::2].
    If groups do not span several cubes, `cubes` may be any subset of a clip's.
    """
    return _add_first(cubes, grid, tubelet, group, -1)


def add_motion(
    target: Float[Tensor, "b n p"], grid: Grid, tubelet: Shape3, group: int = 2
) -> Float[Tensor, "b n p"]:
    """Inverse of `split_motion`: every later frame is the group's first plus its own motion."""
    return _add_first(target, grid, tubelet, group, 1)


def _add_first(cubes: Tensor, grid: Grid, tubelet: Shape3, group: int, sign: int) -> Tensor:
    """`sign` times the first frame of every group is added to the group's others."""
    within = tubelet[0] % group == 0
    if within:
        x = rearrange(cubes, "b n (k g q) -> b n k g q", k=tubelet[0] // group, g=group)
    elif grid.t * tubelet[0] % group:
        raise ValueError(
            f"motion_group={group} must divide the clip's {grid.t * tubelet[0]} frames; the "
            "paper's is 2"
        )
    else:  # groups reach from cube to cube: every place's frames in one row
        x = rearrange(cubes, "b (t s) (pt q) -> b s (t pt) q", t=grid.t, pt=tubelet[0])
        x = rearrange(x, "b s (k g) q -> b s k g q", g=group)
    first, others = x[:, :, :, :1], x[:, :, :, 1:]
    x = torch.cat([first, others + first if sign > 0 else others - first], 3)
    if within:
        return x.flatten(2)
    return rearrange(x.flatten(2, 3), "b s (t pt) q -> b (t s) (pt q)", t=grid.t, pt=tubelet[0])


def motion_frames(
    grid: Grid, tubelet: Shape3, group: int, device: torch.device | None = None
) -> Bool[Tensor, "n pt"]:
    """Which frames of each token's cube carry motion (True) and which appearance (False)."""
    frame = torch.arange(grid.t * tubelet[0], device=device).view(grid.t, tubelet[0])
    return (frame % group != 0).repeat_interleave(grid.h * grid.w, 0)


def make_target(
    clip: Float[Tensor, "b c T H W"], tubelet: Shape3, config: TargetConfig,
    statistics: CubeStatistics | None = None, index: Int[Tensor, "b m"] | None = None,
) -> Float[Tensor, "b n2 p"]:  # fmt: skip
    """Target of every token, or only of those in `index`.

    clip: pixels in [0, 1]; the targets' units are as `config` says.
    statistics: to normalise the cubes, for targets normalised per cube; by default their own.

    *Official:* cubes are normalised first and differenced after, so motion is in units of each
    cube's own deviation. The paper's formula differences raw pixels: `units="pixel"`.
    """
    grid = grid_of(clip, tubelet)
    if (own := find_own("target", config.function)) is not None:
        target = own.make(clip, tubelet)
        if target.ndim != 3 or target.shape[:2] != (len(clip), grid.n):
            raise ValueError(
                f"function={config.function!r} gives targets of shape {tuple(target.shape)}; they "
                f"must be (b n p), here ({len(clip)}, {grid.n}, p), as patchify(maps, tubelet) is"
            )
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


def target_width(model: ModelConfig, config: TargetConfig) -> int:
    """Values of a token's target (p): the pixels of its cube, or those of your own function."""
    if not config.function:
        return math.prod(model.tubelet) * len(IMAGENET_MEAN)
    clip = torch.zeros(1, 3, model.frames, model.size_px, model.size_px)
    return make_target(clip, model.tubelet, config).shape[-1]


def invert_target(
    target: Float[Tensor, "b n p"], grid: Grid, tubelet: Shape3, config: TargetConfig,
    statistics: CubeStatistics | None = None,
) -> Float[Tensor, "b c T H W"]:  # fmt: skip
    """Inverse of `make_target`: a clip with pixels in [0, 1] units (not clipped).

    statistics: needed for targets normalised per cube: each cube's own (true) ones, or
        `visible_statistics`, estimated only from the visible cubes.
    """
    if config.function:
        raise ValueError(
            f"function={config.function!r} is a custom target without pixels; "
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
        cubes = unnormalise_cubes(cubes, statistics)
    clip = unpatchify(cubes, grid, tubelet)
    return unnormalise_pixels(clip) if config.units == "imagenet" else clip


def _scale_motion(cubes: Tensor, moving: Bool[Tensor, "*b pt"], scale: float) -> Tensor:
    if scale == 1:
        return cubes
    factor = torch.where(moving, scale, 1.0).to(cubes.dtype)
    return (cubes.unflatten(2, (moving.shape[-1], -1)) * factor.unsqueeze(-1)).flatten(2)


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
    prediction: Float[Tensor, "b m p"], target: Float[Tensor, "b m p"],
    masked: Int[Tensor, "b m"], grid: Grid, tubelet: Shape3, config: TargetConfig,
) -> Loss:  # fmt: skip
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
