"""ReconstructionViewer: a masked autoencoder's reconstruction of a clip, next to the original."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from maedfer_lab.config import Shape3
from maedfer_lab.fast import speed_up
from maedfer_lab.figures import colour_table
from maedfer_lab.method.masking import mask_ratios, nearest_ratio
from maedfer_lab.method.models import MaskedAutoencoder, model_mask
from maedfer_lab.method.reconstruction import (
    BASELINES,
    LOOK_RATIO,
    MOTION_GAIN,
    ClipReconstruction,
    Statistics,
    TokenOrder,
    as_bytes,
    reconstruct_clip,
)
from maedfer_lab.viewers import scene
from maedfer_lab.viewers.masking import PRESETS, preset_places, toggle_tube
from maedfer_lab.viewers.player import Player, control, pick, pick_clip, pick_mask, whole_number

KEPT = "\0mask"  # no model's name
ERROR_TOP = 1.0  # of the scale of errors: about the error of predicting a cube's mean
HIDDEN_SHARES = {"0.5": "50 %", "0.75": "75 %", "0.9": "90 %"}
COMPARED = ("masked input", "with visible cubes", "error per cube")
STATISTICS = {"visible": "visible only", "true": "true (borrowed)"}
TOLD = {
    "none": "none needed; the targets are raw pixels.",
    "visible": "visible only; hidden cubes get mean and deviation interpolated from visible ones.",
    "true": "true; each hidden cube is un-normalised with its own mean and deviation, which "
    "already contain much of the face.",
}


@dataclass(frozen=True)
class ReconstructionSettings:
    """What is to be reconstructed.

    places: which places of a frame are hidden, once cubes were clicked; None draws from `seed`.
    token_order: "model" is the order the model was trained with.
    beside: the second reconstruction: another model's name, KEPT for the mask of
        `kept`, or "" for none.
    note: a remark on the last change.
    """

    model: str
    clip: str
    ratio: float = 0.5
    seed: int = 0
    statistics: Statistics = "visible"
    token_order: TokenOrder = "model"
    places: tuple[bool, ...] | None = None
    beside: str = ""
    kept: tuple[bool, ...] = ()
    note: str = ""


class ReconstructionViewer(Player[ReconstructionSettings]):
    """Live masks on a clip: original, input, reconstruction, motion and error, frame by frame.

    models: one masked autoencoder, or several by name (checkpoints to choose from).
    clips: one clip (3, T, H, W) with pixels in [0, 1], a batch or list of them, or {name: clip}.
    ratio: share of hidden cubes, 0.55 by default (the paper trains with 0.9); rounded to the
        nearest that hides equally many in each region. seed: of the mask.
    statistics, token_order: as in `reconstruct_clip`; no effect for raw targets, or for a ViT.
    fps: frames of the clips per second, if known.
    result: the result of `reconstruct_clip` for the first clip and model with these settings, if
        already computed.

    A click hides or shows a cube in all frames (its tube), dragging all cubes on the way. If
    regions need equally many visible cubes, each other region does the same at the same place, or
    at the nearest that can. Another checkpoint or a saved mask can be shown side by side.

    Attributes: `settings`, `mask` (True = hidden) and `result` of what is shown. Raises ValueError
    for a model without decoder, a clip that does not fit the first model or is not finite, and
    ratios outside (0, 1).
    """

    kind = "reconstruction"
    result: ClipReconstruction
    mask: Bool[Tensor, " n"]

    def __init__(
        self, models: MaskedAutoencoder | Mapping[str, MaskedAutoencoder], clips: scene.Clips, *,
        ratio: float = LOOK_RATIO, seed: int = 0, statistics: Statistics = "visible",
        token_order: TokenOrder = "model", result: ClipReconstruction | None = None,
        fps: float | None = None,
    ) -> None:  # fmt: skip
        self.models = dict(models) if isinstance(models, Mapping) else {"model": models}
        for name, model in self.models.items():
            if not isinstance(model, MaskedAutoencoder):
                raise ValueError(
                    f"model {scene.plain(name)!r} is a {type(model).__name__}, which has no "
                    "decoder; give a MaskedAutoencoder: load_checkpoint(path, as_='autoencoder')"
                    ".model"
                )
            speed_up(model)
        if not self.models:
            raise ValueError("models is empty; give a MaskedAutoencoder or {name: model}")
        first = next(iter(self.models))
        self.clips, self._computed = scene.name_clips(clips, self.models[first].config), result
        now = ReconstructionSettings(first, next(iter(self.clips)))
        for name, value in (("seed", seed), ("statistics", statistics),
                            ("token_order", token_order), ("ratio", ratio)):  # fmt: skip
            now = self._changed(now, name, value)
        super().__init__(replace(now, note="" if ratio == LOOK_RATIO else now.note), fps)

    # ------------------------------------------------------------------ changes

    def _changed(
        self, now: ReconstructionSettings, name: str, value: Any
    ) -> ReconstructionSettings:
        now = replace(now, note="")
        model = self.models[now.model]
        grid, region = model.grid, region_of(model)
        if name == "preset" and value not in PRESETS:
            name, value = "ratio", float(pick(name, value, HIDDEN_SHARES))
        if name == "ratio":
            found, note = nearest_ratio(value, mask_ratios(grid, region))
            return replace(now, ratio=found, places=None, note=note)
        if name == "seed":
            return replace(now, seed=whole_number(name, value), places=None)
        if name in ("preset", "tube", "paint"):
            hidden, note, place = self._hidden_places(now), "", value
            if name == "paint":  # a stroke changes only what differs
                place, hide = value["place"], value["hide"]
                if 0 <= place < len(hidden) and bool(hidden[place]) == hide:
                    return now
            if name == "preset":
                hidden = preset_places(value, grid, region)
            else:
                hidden, note = toggle_tube(hidden, place, grid, region)
            ratio = nearest_ratio(float(hidden.float().mean()), mask_ratios(grid, region))[0]
            return replace(now, places=tuple(hidden.tolist()), ratio=ratio, note=note)
        if name == "beside":
            pick(name, value, self._besides(now))
            kept = tuple(self._hidden_places(now).tolist()) if value == KEPT else ()
            return replace(now, beside=value, kept=kept)
        if name == "model":
            model = self.models[pick(name, value, self.models)]
            found, note = nearest_ratio(now.ratio, mask_ratios(model.grid, region_of(model)))
            beside = now.beside if now.beside not in (KEPT, value) else ""
            return replace(now, model=value, ratio=found, places=None, note=note, beside=beside)
        known: dict[str, Any] = {"clip": self.clips, "statistics": STATISTICS,
                                 "token_order": ("model", "right", "published")}  # fmt: skip
        pick("name", name, ("ratio", "seed", "model", "tube", "preset", "beside", *known))
        return replace(now, **{name: pick(name, value, known[name])})

    def _besides(self, now: ReconstructionSettings) -> dict[str, str]:
        """What can be shown side by side, with labels."""
        others = {name: scene.plain(name) for name in self.models if name != now.model}
        return {"": "nothing", KEPT: "the mask of this moment", **others}

    def _hidden_places(self, now: ReconstructionSettings) -> Bool[Tensor, " hw"]:
        """Which places of a frame are hidden, in all frames."""
        if now.places is not None:
            return torch.tensor(now.places)
        model, generator = self.models[now.model], torch.Generator().manual_seed(now.seed)
        return model_mask(model, now.ratio, 1, generator)[0, : model.grid.h * model.grid.w]

    # ------------------------------------------------------------------ looks

    def _look(self, now: ReconstructionSettings) -> scene.View:
        model, hidden = self.models[now.model], self._hidden_places(now)
        sides = {"A: " if now.beside else "": (now.model, hidden)}
        if now.beside == KEPT:
            sides["B: "] = now.model, torch.tensor(now.kept)
        elif now.beside:
            sides["B: "] = now.beside, hidden
        found = [self._reconstruct(now, *side) for side in sides.values()]
        self.result, self.mask = found[0], hidden.repeat(model.grid.t)
        rows, sentences = [], []
        for (letter, (name, places)), result in zip(sides.items(), found, strict=True):
            mask = places.repeat(model.grid.t)
            tiles = reconstruction_tiles(result, mask, model.config.tubelet)
            more = {"hidden": scene.digits(places)} if now.beside else {}
            rows += [replace(row, label=letter + row.label, more=row.more | more) for row in tiles
                     if not now.beside or row.label in COMPARED]  # fmt: skip
            sentences += [letter + word for word in self._words(now, name, mask, result)]
        if now.beside:
            rows = [scene.Strip("original", as_bytes(found[0].original)), *rows]
        columns = [
            (letter + kind, kind, result.losses)
            for (letter, (name, _)), result in zip(sides.items(), found, strict=True)
            for kind in ("appearance", "motion")[: 1 + self.models[name].target.motion]
        ]
        numbers = [("loss on hidden cubes", *(head for head, _, _ in columns))]
        for name, label in {"model": "model", **BASELINES}.items():
            numbers.append((label, *(f"{of[name][kind]:.4f}" for _, kind, of in columns)))
        names = dict.fromkeys(name for name, _ in sides.values())
        by = " and ".join(map(scene.plain, names))
        return scene.View(
            title=f"Reconstruction of {scene.plain(now.clip)} by {by}",
            rows=tuple(rows),
            sentences=tuple(sentences),
            footer=scene.footer_of({name: self.models[name] for name in names}),
            more={
                **scene.geometry(model.config, model.grid, model.config.has_regions),
                "hidden": scene.digits(hidden),
                "visible": int((~self.mask).sum()),
                "click": "tube",
                "values": [{"label": f"{letter}error", "offset": 4 * i * model.grid.n}
                           for i, letter in enumerate(sides)],
            },
            numbers=tuple(numbers),
            table=b"".join(result.error.astype("<f4").tobytes() for result in found),
            note=now.note,
        )  # fmt: skip

    def _reconstruct(
        self, now: ReconstructionSettings, name: str, places: Bool[Tensor, " hw"]
    ) -> ClipReconstruction:
        model, clip, grid = self.models[name], self.clips[now.clip], self.models[now.model].grid
        scene.check_fits(now.clip, clip, model.config)
        if model.grid.shape != grid.shape:
            raise ValueError(
                f"{scene.plain(name)} has the token grid {model.grid.shape}, the other checkpoint "
                f"{grid.shape}; only equal grids can be shown side by side"
            )
        result, self._computed = self._computed, None
        mask = places.repeat(grid.t)
        return result or reconstruct_clip(model, clip, mask, now.statistics, now.token_order)

    def _words(
        self, now: ReconstructionSettings, name: str, mask: Tensor, result: ClipReconstruction
    ) -> list[str]:
        model, region = self.models[name], region_of(self.models[name])
        visible, size = int((~mask).sum()), math.prod(region or (0,))
        each = f", {visible * size // len(mask)} of {size} in each region" if region else ""
        words = [f"Visible: {visible} of {len(mask)} cubes in the clip{each} "
                 f"({float(mask.float().mean()):.0%} hidden).",
                 *describe_losses(result.losses, model.target.motion),
                 f"Statistics: {TOLD[result.statistics]}"]  # fmt: skip
        legacy = None if now.token_order == "model" else now.token_order == "published"
        if wrong := model.split(mask[None], legacy).num_misplaced:
            words.append(f"Published token order: {wrong} of {visible} visible tokens get another "
                         "token's position in the decoder.")  # fmt: skip
        return words

    def _controls_of(self, now: ReconstructionSettings) -> list[dict[str, Any]]:
        model = self.models[now.model]
        is_lgi, raw = model.config.has_regions, model.target.units != "cube"
        own = "published" if model.config.legacy_visible_order else "right"
        order = own if is_lgi and now.token_order == "model" else now.token_order
        orders = {o: o + " (as trained)" * (o == own) for o in ("right", "published")}
        names = {name: scene.plain(name) for name in self.models}
        by_hand = {"shown": "clicked by hand", "note": "changed by clicks"}
        mask = now.ratio, mask_ratios(model.grid, region_of(model)), now.seed
        return [
            control("buttons", "preset", "hide", options={n: n for n in PRESETS} | HIDDEN_SHARES),
            pick_clip(now.clip, self.clips),
            control("select", "model", "checkpoint", now.model, names),
            *pick_mask(*mask, **({} if now.places is None else by_hand)),
            control("select", "beside", "beside it", now.beside, self._besides(now)),
            control("select", "token_order", "token order", order if is_lgi else "right", orders,
                    note="" if is_lgi else "a ViT has no regions, and one order only",
                    disabled=not is_lgi),
            control("select", "statistics", "statistics", now.statistics, STATISTICS,
                    note="raw targets need none" if raw else "", disabled=raw),
        ]  # fmt: skip


def region_of(model: MaskedAutoencoder) -> Shape3 | None:
    """A model's regions in tokens; None for a ViT."""
    return model.config.region if model.config.has_regions else None


def reconstruction_tiles(
    result: ClipReconstruction, mask: Bool[Tensor, " n"], tubelet: Shape3
) -> tuple[scene.Strip, ...]:
    """The seven pictures of a reconstruction (five without motion), coloured."""
    cubes = mask.view(result.error.shape).numpy()
    is_hidden = scene.per_pixel(cubes, tubelet)[..., None]

    def row(label: str, pictures: np.ndarray, alone: bool = False, **scale: Any) -> scene.Strip:
        more: dict[str, Any] = {"scale": scale} if scale else {}
        if alone:
            more["note"] = "white: visible, not predicted"
            pictures = np.where(is_hidden, pictures, scene.LEFT_OUT).astype(np.uint8)
        return scene.Strip(label, pictures, more=more)

    original, whole = as_bytes(result.original), as_bytes(result.reconstruction)
    heat = colour_table("viridis")[((result.error / ERROR_TOP).clip(0, 1) * 255).astype(int)]
    ways, heats = scene.legend_colours("PuOr_r"), scene.legend_colours("viridis")
    change = {"low": "darker", "high": "brighter", "colours": ways}
    error = {"low": "0", "high": f"{ERROR_TOP:g} and more", "colours": heats}
    has_motion = len(original) % 2 == 0
    return (
        row("original", original),
        scene.Strip("masked input", scene.hatched(original, cubes, tubelet), more=scene.HATCHED),
        row("reconstruction", whole, True),
        row("with visible cubes", whole),
        *([row("motion target", motion_pictures(result.motion), **change),
           row("predicted motion", motion_pictures(result.predicted_motion), True, **change)]
          if has_motion else ()),
        row("error per cube", scene.per_pixel(heat, tubelet), True, **error),
    )  # fmt: skip


def motion_pictures(motion: np.ndarray) -> np.ndarray:
    """Change of brightness from even to odd frames in a diverging map, for both frames."""
    change = motion @ [0.299, 0.587, 0.114] * MOTION_GAIN
    index = ((change.clip(-1, 1) + 1) / 2 * 255).round().astype(int)
    return colour_table("PuOr_r")[index].repeat(2, 0)


def describe_losses(losses: Mapping[str, Mapping[str, float]], has_motion: bool) -> list[str]:
    """Whether the model beats the baselines, for appearance and for motion."""
    sentences = []
    for kind in ("appearance", "motion")[: 1 + has_motion]:
        model = losses["model"][kind]
        loss, best = min((losses[name][kind], label) for name, label in BASELINES.items())
        beaten = sum(model < 0.99 * losses[name][kind] for name in BASELINES)
        said = f"no better than the best baseline ({best})"
        if beaten == len(BASELINES):
            less = f"{1 - model / loss:.0%} lower loss"
            said = f"beats all baselines; {less} than the best one ({best})"
        elif model > 1.01 * loss:
            more = model / loss - 1 if loss else math.inf
            said = f"{more:.0%} higher loss than the best baseline ({best})"
            said += f"; beats {beaten} of {len(BASELINES)} baselines" * (beaten > 0)
        sentences.append(f"{kind.capitalize()}: {said}.")
    if not has_motion:
        own = "This model predicts the pixels of all frames; motion is not a separate target."
        sentences.append(own)
    return sentences
