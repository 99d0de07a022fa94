"""MaskingViewer: three kinds of masks on one clip, and what the published code makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from maedfer_lab.config import ModelConfig, Shape3
from maedfer_lab.method.grid import Grid, check_region, region_index
from maedfer_lab.method.masking import (
    mask_ratios,
    random_mask,
    region_tube_mask,
    split_tokens,
    tube_mask,
)
from maedfer_lab.method.reconstruction import hide
from maedfer_lab.viewers.controls import check_seed, pick, ratio_steps, seed_number, select
from maedfer_lab.viewers.player import Player
from maedfer_lab.viewers.scene import Row, View, check_fits, frames_of, name_clips, plain
from maedfer_lab.viewers.tubes import nearest_ratio


@dataclass(frozen=True)
class MaskingWish:
    """What is to be masked, how much, and the seed of the masks."""

    clip: str
    ratio: float
    seed: int = 0
    note: str = ""


class MaskingViewer(Player[MaskingWish]):
    """Random, tube and region-equal masks side by side on one clip.

    clips: one clip (3, T, H, W) with pixels in [0, 1], a batch or list of them, or {name: clip}.
    config: the model whose token grid and regions are meant.
    region: local region in tokens (t, h, w), in place of the model's.
    ratio: share of hidden cubes; moved to the nearest that can be equal in all regions.
    seed: of the masks.

    Beneath: visible tokens per region, and how many of them the published pre-training code would
    put into a wrong region of the encoder (it cuts them by rank, B2), or give another token's
    position in the decoder (B1). Attribute `masks`: what is shown, True = hidden.
    """

    masks: dict[str, Bool[Tensor, " n"]]

    def __init__(
        self,
        clips: Tensor | Mapping[str, Tensor] | Sequence[Tensor],
        config: ModelConfig,
        *,
        region: Shape3 | None = None,
        ratio: float = 0.9,
        seed: int = 0,
    ) -> None:
        self.clips, self.config = name_clips(clips), config
        self.grid = Grid.of_clip(config.frames, config.size_px, config.size_px, config.tubelet)
        self.region = config.region if region is None else region
        check_region(self.grid, self.region)
        for name, clip in self.clips.items():
            check_fits(name, clip, config)
        self._ratios = mask_ratios(self.grid, self.region)
        found, note = nearest_ratio(ratio, self._ratios)
        note = "" if ratio == 0.9 else note
        super().__init__(MaskingWish(next(iter(self.clips)), found, check_seed(seed), note))

    def _changed(self, wish: MaskingWish, name: str, value: Any) -> MaskingWish:
        wish = replace(wish, note="")
        if name == "ratio":
            found, note = nearest_ratio(value, self._ratios)
            return replace(wish, ratio=found, note=note)
        if name == "seed":
            return replace(wish, seed=check_seed(value))
        pick("name", name, ("clip", "ratio", "seed"))
        return replace(wish, clip=pick("clip", value, self.clips))

    def _look(self, wish: MaskingWish) -> View:
        clip, grid = self.clips[wish.clip], self.grid
        seed = torch.Generator().manual_seed(wish.seed)
        self.masks = {
            "random": random_mask(grid, self._whole(wish.ratio), generator=seed)[0],
            "tube": tube_mask(grid, wish.ratio, generator=seed)[0],
            "region-equal tube": region_tube_mask(grid, self.region, wish.ratio, generator=seed)[0],
        }
        rows = [Row("original", frames_of(clip))]
        numbers = [("mask", "visible in a region", "in a wrong region", "at a wrong position")]
        for name, mask in self.masks.items():
            hidden = "".join("01"[int(h)] for h in mask)
            pictures = frames_of(hide(clip.float().cpu(), mask, self.config.tubelet))
            rows.append(Row(name, pictures, more={"hidden": hidden}))
            few, many, region, position = published_faults(mask, grid, self.region)
            visible = int((~mask).sum())
            numbers.append((
                name,
                f"{few}" if few == many else f"{few} to {many}",
                f"{region} of {visible} ({region / visible:.0%})",
                f"{position} of {visible} ({position / visible:.0%})",
            ))  # fmt: skip
        size = " x ".join(map(str, self.region))
        return View(
            viewer="masking",
            title=f"Masks of {wish.ratio:.4g} on {plain(wish.clip)}",
            rows=tuple(rows),
            grid=grid.shape,
            tubelet=self.config.tubelet,
            region=self.region,
            sentences=(
                f"Regions of {size} tokens (t x h x w). LGI-Former needs equally many visible "
                "tokens in each; only the region-equal mask keeps that.",
                "Last two columns: tokens that the published pre-training code would put into a "
                "wrong region of the encoder, or give a wrong position in the decoder.",
            ),
            numbers=tuple(numbers),
            note=wish.note,
        )

    def _whole(self, ratio: float) -> float:
        return round(ratio * self.grid.n) / self.grid.n

    def _controls_of(self, wish: MaskingWish) -> list[dict[str, Any]]:
        return [
            select("clip", "clip", wish.clip, {name: plain(name) for name in self.clips}),
            ratio_steps(wish.ratio, self._ratios),
            seed_number(wish.seed),
        ]


def published_faults(
    mask: Bool[Tensor, " n"], grid: Grid, region: Shape3
) -> tuple[int, int, int, int]:
    """Fewest and most visible tokens of a region; tokens in a wrong region, at a wrong position.

    The last two are what the published pre-training code does with this mask: it cuts visible
    tokens into regions by rank (B2), and its decoder adds positions in grid order (B1). The mask
    must leave a multiple of (time steps) x (windows of a frame) visible, as those of
    `mask_ratios(grid, region)` do.
    """
    index = region_index(grid, region)
    per_region = (~mask)[index].sum(1)
    split = split_tokens(mask[None], grid, region, legacy_visible_order=True)
    home = torch.empty(grid.n, dtype=torch.long)
    home[index] = torch.arange(len(index))[:, None]
    given = torch.arange(len(index)).repeat_interleave(split.visible.shape[1] // len(index))
    wrong = int((home[split.visible[0]] != given).sum())
    return int(per_region.min()), int(per_region.max()), wrong, split.num_misplaced
