"""MaskingViewer: three kinds of masks on one clip, and what the published code does with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from maedfer_lab.config import ModelConfig, Shape3
from maedfer_lab.method.grid import Grid, region_index
from maedfer_lab.method.masking import (
    mask_ratios,
    nearest_ratio,
    random_mask,
    region_tube_mask,
    split_tokens,
    tube_mask,
)
from maedfer_lab.viewers import scene
from maedfer_lab.viewers.player import Player, pick, pick_clip, pick_mask, whole_number


@dataclass(frozen=True)
class MaskingSettings:
    """Clip, mask ratio, and the seed of the masks."""

    clip: str
    ratio: float = 0.9
    seed: int = 0
    note: str = ""


class MaskingViewer(Player[MaskingSettings]):
    """Random, tube and region-equal masks side by side on one clip.

    clips: one clip (3, T, H, W) with pixels in [0, 1], a batch or list of them, or {name: clip}.
    config: the model whose token grid and regions are used.
    ratio: share of hidden cubes; rounded to the nearest that can be equal in all regions.
    seed: of the masks. fps: frames of the clips per second, if known.

    Below: visible tokens per region, and how many of them the published pre-training code would
    assign to a wrong region of the encoder (it cuts them by rank, B2), or give another token's
    position in the decoder (B1). Attribute `masks`: the masks shown, True = hidden.
    """

    kind = "masking"
    masks: dict[str, Bool[Tensor, " n"]]

    def __init__(
        self, clips: scene.Clips, config: ModelConfig, *, ratio: float = 0.9, seed: int = 0,
        fps: float | None = None,
    ) -> None:  # fmt: skip
        self.clips, self.config = scene.name_clips(clips, config), config
        self.grid = Grid.of_clip(config.frames, config.size_px, config.size_px, config.tubelet)
        self._ratios = mask_ratios(self.grid, config.region)
        now = self._changed(MaskingSettings(next(iter(self.clips))), "seed", seed)
        now = self._changed(now, "ratio", ratio)
        super().__init__(replace(now, note="" if ratio == 0.9 else now.note), fps)

    def _changed(self, now: MaskingSettings, name: str, value: Any) -> MaskingSettings:
        if name == "ratio":
            found, note = nearest_ratio(value, self._ratios)
            return replace(now, ratio=found, note=note)
        if name == "seed":
            return replace(now, seed=whole_number(name, value), note="")
        pick("name", name, ("clip", "ratio", "seed"))
        return replace(now, clip=pick(name, value, self.clips), note="")

    def _look(self, now: MaskingSettings) -> scene.View:
        grid, region = self.grid, self.config.region
        seed = torch.Generator().manual_seed(now.seed)
        whole = round(now.ratio * grid.n) / grid.n
        self.masks = {
            "random": random_mask(grid, whole, generator=seed)[0],
            "tube": tube_mask(grid, now.ratio, generator=seed)[0],
            "region-equal tube": region_tube_mask(grid, region, now.ratio, generator=seed)[0],
        }
        original = scene.frames_of(self.clips[now.clip])
        rows = [scene.Strip("original", original)]
        numbers: list[tuple[str, ...]] = [
            ("mask", "visible in a region", "in a wrong region", "at a wrong position")
        ]
        for name, mask in self.masks.items():
            pictures = scene.hatched(original, mask.view(grid.shape).numpy(), self.config.tubelet)
            more = {"hidden": scene.digits(mask), **scene.HATCHED}
            rows.append(scene.Strip(name, pictures, more=more))
            few, many, *faults = published_faults(mask, grid, region)
            visible = int((~mask).sum())
            shares = (f"{wrong} of {visible} ({wrong / visible:.0%})" for wrong in faults)
            numbers.append((name, f"{few}" if few == many else f"{few} to {many}", *shares))
        return scene.View(
            title=f"Masks of {now.ratio:.4g} on {scene.plain(now.clip)}",
            rows=tuple(rows),
            sentences=(
                f"Regions of {' x '.join(map(str, region))} tokens (t x h x w). LGI-Former needs "
                "equally many visible tokens in each; only the region-equal mask guarantees that.",
                "Last two columns: tokens that the published pre-training code would assign to a "
                "wrong region of the encoder, or give a wrong position in the decoder.",
            ),
            footer=scene.footer_of({}),
            more=scene.geometry(self.config, grid),
            numbers=tuple(numbers),
            note=now.note,
        )

    def _controls_of(self, now: MaskingSettings) -> list[dict[str, Any]]:
        return [pick_clip(now.clip, self.clips), *pick_mask(now.ratio, self._ratios, now.seed)]


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


def toggle_tube(
    hidden: Bool[Tensor, " hw"], place: Any, grid: Grid, region: Shape3 | None
) -> tuple[Bool[Tensor, " hw"], str]:
    """Hide a visible place, or show a hidden one; with regions, one in each of their windows.

    In other windows it is the same place within the window, or the nearest that can change.
    Returns the new places and a sentence. ValueError if nothing would stay visible, or hidden.
    """
    place = whole_number("tube", place, len(hidden))
    rh, rw = (grid.h, grid.w) if region is None else region[1:]
    y, x = divmod(place, grid.w)
    was, frame = bool(hidden[place]), hidden.view(grid.h, grid.w).clone()
    if int((frame[:rh, :rw] == was).sum()) == 1:
        raise ValueError(
            f"one cube {'in the frame' if region is None else 'in each region'} must stay "
            f"{'hidden' if was else 'visible'}; {'hide' if was else 'show'} another one first"
        )
    rows, columns = torch.meshgrid(torch.arange(rh), torch.arange(rw), indexing="ij")
    away = (rows - y % rh).square() + (columns - x % rw).square()
    for top in range(0, grid.h, rh):
        for left in range(0, grid.w, rw):
            window = frame[top : top + rh, left : left + rw]
            nearest = int(torch.where(window == was, away, away.max() + 1).argmin())
            window[nearest // rw, nearest % rw] = not was
    others = grid.h * grid.w // (rh * rw) - 1
    also = ", and one cube in every other region: LGI-Former needs equally many in each"
    said = f"{'Shown' if was else 'Hidden'} in all frames: row {y + 1}, column {x + 1}"
    return frame.flatten(), f"{said}{also * (others > 0)}."


PRESETS = {  # rows and columns of the square that face_clip cuts out, as shares of its sides
    "eyes": ((0.4, 0.5), (0.2, 0.8)),
    "mouth": ((0.6, 0.8), (0.3, 0.7)),
}


def preset_places(name: str, grid: Grid, region: Shape3 | None) -> Bool[Tensor, " hw"]:
    """Hidden places of a frame: eyes or mouth, and with regions the same places in each of them."""
    rows, columns = (
        torch.tensor([i for i in range(n) if (i + 1) / n > low + 1e-6 and i / n < high - 1e-6])
        for n, (low, high) in zip((grid.h, grid.w), PRESETS[name], strict=True)
    )
    rh, rw = (grid.h, grid.w) if region is None else region[1:]
    window = torch.zeros(rh, rw, dtype=torch.bool)
    window[rows[:, None] % rh, columns % rw] = True
    if window.all():
        raise ValueError(f"preset={name!r} would leave no cube of a region visible; hide fewer")
    return window.repeat(grid.h // rh, grid.w // rw).flatten()
