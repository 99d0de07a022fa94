"""From a clip and a model to pictures: masked input, reconstruction, losses.

Losses are compared with model-free baselines from the visible cubes alone. For targets normalised
per cube, interpolated means and deviations give pictures without statistics of hidden pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maedfer_lab.config import Shape3, TargetConfig, choose
from maedfer_lab.files import pack_picture
from maedfer_lab.method.grid import Grid, grid_of, patchify, take, unpatchify
from maedfer_lab.method.masking import TokenSplit, merge_tokens
from maedfer_lab.method.models import MaskedAutoencoder
from maedfer_lab.method.targets import (
    CubeStatistics,
    Losses,
    cube_statistics,
    invert_target,
    make_target,
    reconstruction_loss,
)

Statistics = Literal["visible", "true"]
TokenOrder = Literal["model", "right", "published"]
GREY = 0.5
LOOK_RATIO = 0.55  # default for pictures; at the paper's 0.9 no hidden eye comes back
MOTION_GAIN = 2.0  # a change by half of the range saturates the picture of a motion
DEVIATION_FLOOR = 1 / 255  # a flatter cube holds no contrast that could be interpolated
BASELINES = {
    "interpolation": "interpolation of visible colours",
    "nearest": "copy of the nearest visible cube",
    "mean": "mean colour of the visible cubes",
    "zero": "zero in units of the targets",
}


@dataclass(frozen=True)
class ClipReconstruction:
    """Clips as (T, H, W, 3) in [0, 1], motions as (T/2, H, W, 3) in [-1, 1].

    original, masked: the clip, and what the encoder saw of it (the rest is grey).
    reconstruction, interpolation: hidden cubes by the model or by interpolation.
    error: squared error of the model's prediction per cube (t, h, w), in target units; 0 where
        visible.
    losses: appearance and motion over hidden cubes, in target units, of the model and `BASELINES`.
    statistics: mean and deviation of hidden cubes: "visible", interpolated from visible ones;
        "true", each hidden cube's own; "none", not needed for raw targets.
    """

    original: Float[np.ndarray, "T H W 3"]
    masked: Float[np.ndarray, "T H W 3"]
    reconstruction: Float[np.ndarray, "T H W 3"]
    interpolation: Float[np.ndarray, "T H W 3"]
    error: Float[np.ndarray, "t h w"]
    losses: dict[str, Losses]
    statistics: str

    @property
    def motion(self) -> Float[np.ndarray, "T2 H W 3"]:
        """Odd minus even frames of the original."""
        return self.original[1::2] - self.original[::2]

    @property
    def predicted_motion(self) -> Float[np.ndarray, "T2 H W 3"]:
        """Odd minus even frames of the reconstruction."""
        return self.reconstruction[1::2] - self.reconstruction[::2]


@torch.no_grad()
def reconstruct_clip(
    model: MaskedAutoencoder, clip: Float[Tensor, "3 T H W"], mask: Bool[Tensor, " n"],
    statistics: Statistics = "visible", token_order: TokenOrder = "model",
) -> ClipReconstruction:  # fmt: skip
    """Hide `mask` of a clip (pixels in [0, 1]) and assemble the model's reconstruction.

    statistics: for models trained on targets normalised per cube (`ClipReconstruction`).
    token_order: positions of visible tokens in the decoder: "right", as "published" (B1), or as in
        the "model"'s training.
    """
    choose("statistics", statistics, get_args(Statistics))
    choose("token_order", token_order, get_args(TokenOrder))
    tubelet, config, grid = model.config.tubelet, model.target, model.grid
    batch = clip.unsqueeze(0).to(next(model.parameters()).device)
    legacy = None if token_order == "model" else token_order == "published"
    split = model.split(mask.unsqueeze(0), legacy).to(batch.device)
    was_training = model.training
    model.eval()
    prediction = model.predict(batch, split)
    model.train(was_training)

    cubes, target = patchify(batch, tubelet), make_target(batch, tubelet, config)
    hidden = take(target, split.masked)
    known = own = None
    if config.units == "cube":
        known = own = cube_statistics(cubes)
        if statistics == "visible":  # visible cubes are pasted in: only the hidden ones' matter
            known = visible_statistics(batch, split, tubelet)
    merged = merge_tokens(take(target, split.visible), prediction, split)
    predicted = invert_target(merged, grid, tubelet, config, known)

    def paste(pixels: Tensor) -> np.ndarray:
        guess = take(patchify(pixels.clamp(0, 1), tubelet), split.masked)
        whole = unpatchify(merge_tokens(take(cubes, split.visible), guess, split), grid, tubelet)
        return rearrange(whole, "1 c T H W -> T H W c").float().cpu().numpy()

    def losses(values: Tensor) -> Losses:
        loss = reconstruction_loss(values, hidden, split.masked, grid, tubelet, config)
        return {"appearance": float(loss.appearance), "motion": float(loss.motion)}

    guesses = {name: make(batch, split, tubelet) for name, make in GUESSES.items()}
    error = reduce((prediction - hidden).square(), "b m p -> b m 1", "mean")
    error = merge_tokens(error.new_zeros(1, split.visible.shape[1], 1), error, split)
    return ClipReconstruction(
        original=rearrange(clip, "c T H W -> T H W c").float().cpu().numpy(),
        masked=paste(torch.full_like(batch, GREY)),
        reconstruction=paste(predicted),
        interpolation=paste(guesses["interpolation"]),
        error=error.view(grid.shape).cpu().numpy(),
        losses={
            "model": losses(prediction),
            "zero": losses(torch.zeros_like(prediction)),
            **{name: losses(take(make_target(guess, tubelet, config, own), split.masked))
               for name, guess in guesses.items()},
        },
        statistics=statistics if config.units == "cube" else "none",
    )  # fmt: skip


def hide(
    clip: Float[Tensor, "3 T H W"], mask: Bool[Tensor, " n"], tubelet: Shape3
) -> Float[Tensor, "3 T H W"]:
    """The clip with the cubes of `mask` in grey."""
    batch = clip.unsqueeze(0)
    cubes = torch.where(mask[:, None], GREY, patchify(batch, tubelet))
    return unpatchify(cubes, grid_of(batch, tubelet), tubelet)[0]


def frame_pictures(clip: Float[Tensor, "3 T H W"], frames: Sequence[int]) -> list[str]:
    """Frames of a clip, packed for `figures.picture_rows`."""
    return [pack_picture(as_bytes(clip[:, i].permute(1, 2, 0).numpy())) for i in frames]


def reconstruction_rows(items: list[tuple[ClipReconstruction, int]]) -> list[dict[str, Any]]:
    """Rows of a figure: one column per (reconstruction, even frame); for `figures.picture_rows`."""
    if odd := [frame for _, frame in items if frame % 2]:
        raise ValueError(f"frame={odd[0]} must be even: motion is from it to the next; use 0")

    def row(label: str, name: str, kind: str = "") -> dict[str, Any]:
        frames = (getattr(r, name)[frame // 2 if kind else frame] for r, frame in items)
        pixels = (GREY + MOTION_GAIN / 2 * x if kind else x for x in frames)
        described = {"label": label, "pictures": [pack_picture(as_bytes(x)) for x in pixels]}
        return described | ({"kind": kind} if kind else {})

    return [
        row("original", "original"),
        row("masked input", "masked"),
        row("interpolation\n(no model)", "interpolation"),
        row("model:\nappearance", "reconstruction"),
        row("true motion", "motion", "motion"),
        row("model:\nmotion", "predicted_motion", "motion"),
    ]


def as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1] as whole levels."""
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)


# ---------------------------------------------------------------------- baselines without a model


def interpolate_visible(
    values: Float[Tensor, "b v q"], visible: Int[Tensor, "b v"], grid: Grid,
    points_per_token: int = 1,
) -> Float[Tensor, "b t y x q"]:  # fmt: skip
    """Spread values of visible tokens over every frame of the token grid.

    Inverse squared distance weighting (Shepard 1968) among the visible tokens of the same time
    step, at `points_per_token` x `points_per_token` points per token. Of the simple rules tried on
    real faces (nearest cube, Gaussian kernels, other powers) this one came closest.
    """
    in_time, steps = visible.sort(1), torch.arange(grid.t, device=visible.device)
    each = visible.shape[1] // grid.t
    if not torch.equal(in_time.values // (grid.h * grid.w),
                       steps.repeat_interleave(each).expand(len(visible), -1)):  # fmt: skip
        raise ValueError("mask: the time steps keep different numbers of tokens; use a tube mask")
    place = rearrange(in_time.values, "b (t k) -> b t k", t=grid.t) % (grid.h * grid.w)
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
    is_cube = config.units == "cube"
    own = cube_statistics(patchify(clip, tubelet), clip.shape[1]) if is_cube else None
    guess = interpolated_clip(clip, split, tubelet)
    return take(make_target(guess, tubelet, config, own), split.masked)


def visible_statistics(
    clip: Float[Tensor, "b c T H W"], split: TokenSplit, tubelet: Shape3
) -> CubeStatistics:
    """Cube statistics of hidden cubes, interpolated from visible ones."""
    grid = grid_of(clip, tubelet)
    own = cube_statistics(take(patchify(clip, tubelet), split.visible), clip.shape[1])
    spread = interpolate_visible(torch.cat([own.mean, own.std], -1), split.visible, grid)
    mean, std = spread.flatten(1, 3).chunk(2, -1)
    at, std = split.visible.unsqueeze(-1).expand_as(own.mean), std.clamp(min=DEVIATION_FLOOR)
    return CubeStatistics(mean.scatter(1, at, own.mean), std.scatter(1, at, own.std))


def mean_clip(
    clip: Float[Tensor, "b c T H W"], split: TokenSplit, tubelet: Shape3
) -> Float[Tensor, "b c T H W"]:
    """Every frame in the mean colour of its visible cubes (equally many in each time step)."""
    grid, (pt, ph, pw) = grid_of(clip, tubelet), tubelet
    seen = take(patchify(clip, tubelet), split.visible.sort(1).values)
    colours = rearrange(seen, "b (t k) (pt q c) -> b t k pt q c", t=grid.t, pt=pt, q=ph * pw)
    form = "b t pt c -> b c (t pt) H W"
    return repeat(colours.mean((2, 4)), form, H=clip.shape[3], W=clip.shape[4])


def nearest_clip(
    clip: Float[Tensor, "b c T H W"], split: TokenSplit, tubelet: Shape3
) -> Float[Tensor, "b c T H W"]:
    """Every cube is a copy of the nearest visible cube, of its own time step if it has one."""
    grid = grid_of(clip, tubelet)
    axes = torch.meshgrid(*(torch.arange(side, device=clip.device) for side in grid.shape),
                          indexing="ij")  # fmt: skip
    place = torch.stack(axes, -1).view(-1, 3).float()
    place[:, 0] *= grid.h + grid.w  # so that another step is further than any place
    nearest = torch.stack([
        visible[torch.cdist(place, place[visible]).argmin(1)] for visible in split.visible
    ])  # fmt: skip
    return unpatchify(take(patchify(clip, tubelet), nearest), grid, tubelet)


GUESSES = {"interpolation": interpolated_clip, "nearest": nearest_clip, "mean": mean_clip}
