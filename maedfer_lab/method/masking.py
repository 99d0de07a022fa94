"""Masks over the token grid: True is masked (hidden), everywhere.

A *tube* mask hides the same places in all frames, so nothing can be copied from an adjacent
frame. LGI-Former also needs the same number of visible tokens in each local region.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from maedfer_lab.config import Shape3
from maedfer_lab.method.grid import Grid, check_region, region_index


def num_masked(ratio: float, places: int, what: str = "frame of the token grid") -> int:
    """How many of `places` a mask ratio hides; an error unless that is a whole number.

    Rounded, never truncated: 0.29 of 100 is 29, though the product in floats is 28.999...
    """
    if not 0 < ratio < 1:
        raise ValueError(f"mask_ratio={ratio} must lie between 0 and 1 (exclusive); try 0.9")
    hidden = round(ratio * places)
    if abs(ratio * places - hidden) > 1e-6 or not 0 < hidden < places:
        near = sorted({int(ratio * places), int(ratio * places) + 1} & set(range(1, places)))
        good = " or ".join(f"{k / places:.4g}" for k in near) or "a larger region"
        raise ValueError(
            f"mask_ratio={ratio} leaves {(1 - ratio) * places:.4g} visible places in a {what} of "
            f"{places} places; the number must be whole and at least 1: use {good}"
        )
    return hidden


def mask_ratios(grid: Grid, region: Shape3 | None = None) -> list[float]:
    """All ratios that leave equally many visible tokens in every region (or in the frame)."""
    places = grid.h * grid.w if region is None else region[1] * region[2]
    return [k / places for k in range(1, places)]


def nearest_ratio(ratio: Any, known: list[float]) -> tuple[float, str]:
    """The nearest ratio with equally many visible in every region; a remark if it was changed.

    Of two as near, the larger: 0.75 of 50 places hides 38.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1:
        raise ValueError(
            f"mask_ratio={ratio} must lie between 0 and 1 (exclusive): some cubes must be hidden "
            "and some visible; try 0.9"
        )
    found = min(known, key=lambda r: (round(abs(r - ratio), 9), -r))
    if math.isclose(found, ratio, abs_tol=1e-6):
        return found, ""
    places = len(known) + 1
    hidden = f"{round(found * places)} of {places} places of every region"
    return found, f"Mask ratio {ratio:g} is rounded to {found:.4g}, which hides {hidden}."


def random_mask(
    grid: Grid, ratio: float, num_clips: int = 1, *, generator: Generator | None = None
) -> Bool[Tensor, "b n"]:
    """Hide any tokens, independently in every frame (for comparison; the paper uses tubes)."""
    return _hide(num_clips, grid.n, num_masked(ratio, grid.n, "token grid"), generator)


def tube_mask(
    grid: Grid, ratio: float, num_clips: int = 1, *, generator: Generator | None = None
) -> Bool[Tensor, "b n"]:
    """Hide the same random places in every frame (VideoMAE's tube masking)."""
    hidden = num_masked(ratio, grid.h * grid.w)
    return _hide(num_clips, grid.h * grid.w, hidden, generator).repeat(1, grid.t)


def region_tube_mask(
    grid: Grid, region: Shape3, ratio: float, num_clips: int = 1, *,
    generator: Generator | None = None,
) -> Bool[Tensor, "b n"]:  # fmt: skip
    """Tube mask that hides equally many places in each region's window (Sun et al., section 3.3).

    Places are drawn for each spatial window of (region[1], region[2]) tokens and repeated over all
    time steps, so every local region keeps the same number of visible tokens.
    """
    check_region(grid, region)
    _, rh, rw = region
    windows = (grid.h // rh) * (grid.w // rw)
    hidden = num_masked(ratio, rh * rw, f"{rh} x {rw} region")
    mask = _hide(num_clips * windows, rh * rw, hidden, generator)
    form = "(b nh nw) (h w) -> b (nh h nw w)"
    return rearrange(mask, form, b=num_clips, nh=grid.h // rh, h=rh).repeat(1, grid.t)


def _hide(rows: int, places: int, hidden: int, generator: Generator | None) -> Tensor:
    return torch.rand(rows, places, generator=generator).argsort(1).argsort(1) < hidden


@dataclass(frozen=True)
class TokenSplit:
    """Which tokens are visible and which masked, as indices into the token grid.

    visible: (b v) in the encoder's order: region after region for LGI-Former, else grid order.
    masked: (b m) in grid order.
    decoder_positions: (b v) the position that the decoder adds to each visible token. Equal to
        `visible`, except with the published order.
    """

    visible: Int[Tensor, "b v"]
    masked: Int[Tensor, "b m"]
    decoder_positions: Int[Tensor, "b v"]

    def to(self, device: torch.device) -> TokenSplit:
        """The same split on another device."""
        parts = self.visible, self.masked, self.decoder_positions
        return TokenSplit(*(part.to(device, non_blocking=True) for part in parts))

    @property
    def num_misplaced(self) -> int:
        """Visible tokens of the first clip that get another token's position in the decoder."""
        return int((self.visible[0] != self.decoder_positions[0]).sum())


def split_tokens(
    mask: Bool[Tensor, "b n"], grid: Grid, region: Shape3 | None = None, *,
    legacy_visible_order: bool = False,
) -> TokenSplit:  # fmt: skip
    """Sort the tokens of a mask into visible and masked ones; check that the counts are equal.

    region: local regions of LGI-Former, or None for joint attention.
    legacy_visible_order: as published (B1, B2): visible tokens are cut into regions
        by rank, not by place, and the decoder adds positions in grid order to them.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"mask has dtype {mask.dtype}; True is masked: use mask.bool()")
    if mask.shape[1] != grid.n:
        raise ValueError(f"mask has {mask.shape[1]} tokens; the grid {grid.shape} has {grid.n}")
    counts = (~mask).sum(1)
    num_visible = int(counts[0])
    if not 0 < num_visible < grid.n or bool((counts != num_visible).any()):
        raise ValueError(
            f"mask leaves {sorted(set(counts.tolist()))} visible tokens of {grid.n} in the clips "
            "of this batch; every clip needs the same number, at least 1 and not all"
        )
    visible, masked = _visible_first(mask).tensor_split([num_visible], 1)
    if region is None:
        return TokenSplit(visible, masked, visible)
    if legacy_visible_order:
        nt, nhw = grid.t // region[0], (grid.h // region[1]) * (grid.w // region[2])
        if num_visible % (grid.t * nhw):
            raise ValueError(
                f"legacy_visible_order: {num_visible} visible tokens cannot be cut into "
                f"{grid.t} x {nhw} equal parts; use region_tube_mask"
            )
        form = "b (nt t nhw hw) -> b (nt nhw t hw)"
        by_rank = rearrange(visible, form, nt=nt, t=region[0], nhw=nhw)
        return TokenSplit(by_rank, masked, visible)
    order = region_index(grid, region).to(mask.device)
    per_region = (~mask)[:, order].sum(-1)
    if bool((per_region != per_region[0, 0]).any()):
        raise ValueError(
            f"mask leaves between {int(per_region.min())} and {int(per_region.max())} visible "
            f"tokens in the local regions of {tuple(region)}; LGI-Former needs the same number "
            "in each: make the mask with region_tube_mask"
        )
    order = order.flatten()
    by_region = order[_visible_first(mask[:, order])[:, :num_visible]]
    return TokenSplit(by_region, masked, by_region)


def _visible_first(mask: Tensor) -> Tensor:
    """Indices of visible tokens, then of masked ones, each group in its own order."""
    return mask.to(torch.uint8).argsort(dim=1, stable=True)


def misplaced_tokens(grid: Grid, region: Shape3, ratio: float = 0.9) -> int:
    """Visible tokens of a clip to which the published decoder adds a wrong position (B1).

    40 of 80 for the paper's (2, 5, 10); 0 for regions of one time step or of the full frame.
    """
    mask = region_tube_mask(grid, region, ratio, generator=torch.Generator().manual_seed(0))
    return split_tokens(mask, grid, region, legacy_visible_order=True).num_misplaced


def merge_tokens(
    visible: Float[Tensor, "b v d"], masked: Float[Tensor, "b m d"], split: TokenSplit
) -> Float[Tensor, "b n d"]:
    """Return visible and masked rows to their places in the grid: the inverse of the split."""
    index = torch.cat([split.visible, split.masked], 1)
    rows = torch.cat([visible, masked.to(visible.dtype)], 1)
    return torch.empty_like(rows).scatter(1, index.unsqueeze(-1).expand_as(rows), rows)
