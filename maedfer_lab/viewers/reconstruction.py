"""ReconstructionViewer: what a masked autoencoder makes of a clip, in step with the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from maedfer_lab.fast import speed_up
from maedfer_lab.figures import colour_table
from maedfer_lab.method.masking import mask_ratios
from maedfer_lab.method.models import MaskedAutoencoder, model_mask
from maedfer_lab.method.reconstruction import (
    BASELINES,
    LOOK_RATIO,
    MOTION_GAIN,
    ClipReconstruction,
    Statistics,
    TokenOrder,
    reconstruct_clip,
)
from maedfer_lab.viewers.masking import PRESETS, nearest_ratio, preset_places, toggle_tube
from maedfer_lab.viewers.player import (
    Player,
    buttons,
    check_seed,
    pick,
    ratio_steps,
    seed_number,
    select,
)
from maedfer_lab.viewers.scene import (
    LEFT_OUT,
    Row,
    View,
    as_bytes,
    check_fits,
    footer_of,
    hatched,
    legend_colours,
    name_clips,
    per_pixel,
    plain,
)

AllLosses = Mapping[str, Mapping[str, float]]  # of the model and of each baseline
KEPT = "\0mask"  # no model's name
ERROR_TOP = 1.0  # of the scale of errors: about the error of predicting a cube's mean
ALONE = "white: visible, not predicted"
HIDDEN_SHARES = {"0.5": "50 %", "0.75": "75 %", "0.9": "90 %"}
COMPARED = ("masked input", "with visible cubes", "error per cube")
STATISTICS = {"visible": "visible only", "true": "true (borrowed)"}


@dataclass(frozen=True)
class ReconstructionSettings:
    """What is to be reconstructed.

    places: hidden places of a frame, once cubes were clicked; None draws them from `seed`.
    token_order: "model" is the order the model was trained in.
    beside: what a second reconstruction is made with: another model's name, KEPT for the mask of
        `kept`, or "" for none.
    note: what the viewer has to say about the last change.
    """

    model: str
    clip: str
    ratio: float
    seed: int = 0
    statistics: Statistics = "visible"
    token_order: TokenOrder = "model"
    places: tuple[int, ...] | None = None
    beside: str = ""
    kept: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class _Side:
    """One reconstruction: by whom, its hidden places as text, and what is shown and said of it."""

    model: str
    hidden: str
    result: ClipReconstruction
    rows: tuple[Row, ...]
    words: tuple[str, ...]
    numbers: tuple[tuple[str, ...], ...]


class ReconstructionViewer(Player[ReconstructionSettings]):
    """Live masks on a clip: original, input, reconstruction, motion and error, frame by frame.

    models: one masked autoencoder, or several by name (checkpoints to choose from).
    clips: one clip (3, T, H, W) with pixels in [0, 1], a batch or list of them, or {name: clip}.
    ratio: share of hidden cubes, 0.55 by default (the paper trains with 0.9); moved to the nearest
        that hides equally many in each region.
    seed: of the mask.
    statistics: "visible" borrows nothing from hidden pixels, "true" un-normalises each hidden
        cube with its own mean and deviation; without effect for models of raw targets.
    fps: frames of the clips in a second, where that is known.
    token_order: of visible tokens in the decoder: "right", as "published", or as the "model" was
        trained.
    result: what `reconstruct_clip` gave for the first clip and model with these settings, where it
        has been computed already.

    A click hides or shows a cube at all times (its tube), dragging all cubes on the way.
    LGI-Former needs equally many visible cubes in each region, so there the same is done at the
    same place of every other region; where that place is so already, at the nearest one that is
    not. A ViT has no such rule. Another checkpoint, or the mask of a moment, can stand beside.

    Attributes: `settings`, `mask` (True = hidden) and `result` (a `ClipReconstruction`) of what is
    shown.

    Raises ValueError for a model without decoder, a clip that does not fit the first model or is
    not finite, and ratios outside (0, 1).
    """

    result: ClipReconstruction
    mask: Bool[Tensor, " n"]

    def __init__(
        self,
        models: MaskedAutoencoder | Mapping[str, MaskedAutoencoder],
        clips: Tensor | Mapping[str, Tensor] | Sequence[Tensor],
        *,
        ratio: float = LOOK_RATIO,
        seed: int = 0,
        statistics: Statistics = "visible",
        token_order: TokenOrder = "model",
        result: ClipReconstruction | None = None,
        fps: float | None = None,
    ) -> None:
        self.models = dict(models) if isinstance(models, Mapping) else {"model": models}
        if not self.models:
            raise ValueError("models is empty; give a MaskedAutoencoder or {name: model}")
        for name, model in self.models.items():
            if not isinstance(model, MaskedAutoencoder):
                raise ValueError(
                    f"model {plain(name)!r} is a {type(model).__name__}, which has no decoder; "
                    "use a MaskedAutoencoder: load_checkpoint(path, as_='autoencoder').model"
                )
            speed_up(model)
        self.clips, self._computed = name_clips(clips), result
        first = next(iter(self.models))
        for name, clip in self.clips.items():
            check_fits(name, clip, self.models[first].config)
        now = ReconstructionSettings(first, next(iter(self.clips)), 0.5)
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
        if name == "ratio":
            found, note = nearest_ratio(value, self._ratios(model))
            return replace(now, ratio=found, places=None, note=note)
        if name == "seed":
            return replace(now, seed=check_seed(value), places=None)
        if name == "preset" and value in PRESETS:
            return self._hide(now, preset_places(value, model.grid, self._region(model)))
        if name == "preset":
            share = pick(name, value, HIDDEN_SHARES)
            return self._changed(now, "ratio", float(share))
        if name in ("tube", "paint"):  # a stroke leaves alone what is as it wants it
            hidden, place = self._hidden_places(now), value
            if name == "paint":
                place, hide = value["place"], value["hide"]
                if 0 <= place < len(hidden) and bool(hidden[place]) == hide:
                    return now
            hidden, note = toggle_tube(hidden, place, model.grid, self._region(model))
            return self._hide(now, hidden, note)
        if name == "beside":
            pick(name, value, self._besides(now))
            kept = torch.nonzero(self._hidden_places(now)).flatten().tolist()
            return replace(now, beside=value, kept=tuple(kept) if value == KEPT else ())
        if name == "model":
            model = self.models[pick(name, value, self.models)]
            found, note = nearest_ratio(now.ratio, self._ratios(model))
            beside = now.beside if now.beside not in (KEPT, value) else ""
            return replace(now, model=value, ratio=found, places=None, note=note, beside=beside)
        known = {
            "clip": tuple(self.clips),
            "statistics": tuple(STATISTICS),
            "token_order": ("model", "right", "published"),
        }
        if name not in known:
            raise ValueError(f"{plain(name)!r} is nothing that can be set; known: ratio, seed, "
                             f"model, tube, preset, beside, {', '.join(known)}")  # fmt: skip
        return replace(now, **{name: pick(name, value, known[name])})

    def _hide(
        self, now: ReconstructionSettings, hidden: Bool[Tensor, " hw"], note: str = ""
    ) -> ReconstructionSettings:
        ratio = float(hidden.float().mean())
        ratio = min(self._ratios(self.models[now.model]), key=lambda known: abs(known - ratio))
        places = tuple(torch.nonzero(hidden).flatten().tolist())
        return replace(now, places=places, ratio=ratio, note=note)

    def _besides(self, now: ReconstructionSettings) -> dict[str, str]:
        """What can stand beside, with words."""
        others = {name: plain(name) for name in self.models if name != now.model}
        return {"": "nothing", KEPT: "the mask of this moment", **others}

    def _region(self, model: MaskedAutoencoder) -> tuple[int, int, int] | None:
        return model.config.region if model.config.has_regions else None

    def _ratios(self, model: MaskedAutoencoder) -> list[float]:
        return mask_ratios(model.grid, self._region(model))

    def _hidden_places(self, now: ReconstructionSettings) -> Bool[Tensor, " hw"]:
        """Which places of a frame are hidden, at all times."""
        model = self.models[now.model]
        size = model.grid.h * model.grid.w
        if now.places is None:
            generator = torch.Generator().manual_seed(now.seed)
            return model_mask(model, now.ratio, 1, generator)[0, :size]
        return _places(now.places, size)

    # ------------------------------------------------------------------ looks

    def _look(self, now: ReconstructionSettings) -> View:
        model, hidden = self.models[now.model], self._hidden_places(now)
        sides = [self._side(now, now.model, hidden)]
        if now.beside == KEPT:
            sides.append(self._side(now, now.model, _places(now.kept, len(hidden))))
        elif now.beside:
            sides.append(self._side(now, now.beside, hidden))
        self.result, self.mask = sides[0].result, hidden.repeat(model.grid.t)
        rows, letters = sides[0].rows, ("",)
        if now.beside:
            letters = ("A: ", "B: ")
            rows = (rows[0], *(
                replace(row, label=letter + row.label, more=row.more | {"hidden": side.hidden})
                for letter, side in zip(letters, sides, strict=True)
                for row in side.rows if row.label in COMPARED
            ))  # fmt: skip
        lettered = list(zip(letters, sides, strict=True))
        head = [(letter + kind) for letter, side in lettered for kind in side.numbers[0][1:]]
        return View(
            viewer="reconstruction",
            title=f"Reconstruction of {plain(now.clip)} by "
            + " and ".join(dict.fromkeys(plain(side.model) for side in sides)),
            rows=rows,
            grid=model.grid.shape,
            tubelet=model.config.tubelet,
            region=self._region(model),
            sentences=tuple(letter + word for letter, side in lettered for word in side.words),
            numbers=((sides[0].numbers[0][0], *head), *(
                (own[0], *(number for line in lines for number in line[1:]))
                for own, *lines in zip(sides[0].numbers[1:],
                                       *(side.numbers[1:] for side in sides), strict=True)
            )),
            note=now.note,
            footer=footer_of({side.model: self.models[side.model] for side in sides}),
            more={
                "hidden": sides[0].hidden,
                "visible": int((~self.mask).sum()),
                "click": "tube",
                "values": [{"label": f"{letter}error", "offset": 4 * i * model.grid.n}
                           for i, letter in enumerate(letters)],
            },
            table=b"".join(side.result.error.astype("<f4").tobytes() for side in sides),
        )  # fmt: skip

    def _side(self, now: ReconstructionSettings, name: str, hidden: Bool[Tensor, " hw"]) -> _Side:
        """One reconstruction, and what is said of it."""
        model, clip = self.models[name], self.clips[now.clip]
        check_fits(now.clip, clip, model.config)
        mask, grid = hidden.repeat(model.grid.t), self.models[now.model].grid
        if model.grid.shape != grid.shape:
            raise ValueError(
                f"{plain(name)} has the token grid {model.grid.shape}, the other checkpoint "
                f"{grid.shape}; only equal grids can stand side by side"
            )
        result, self._computed = self._computed, None
        result = result or reconstruct_clip(model, clip, mask, now.statistics, now.token_order)
        region, visible = self._region(model), int((~mask).sum())
        words = [f"Visible: {visible} of {model.grid.n} cubes in the clip"]
        if region is not None:
            regions = model.grid.n // int(np.prod(region))
            words[0] += f", {visible // regions} of {int(np.prod(region))} in each region"
        words[0] += f" ({float(mask.float().mean()):.0%} hidden)."
        words += describe_losses(result.losses, model.target.motion)
        words.append(describe_statistics(result.statistics))
        wrong = self._misplaced(model, mask, now.token_order)
        if wrong:
            words.append(f"Published token order: {wrong} of {visible} visible tokens meet another "
                         "token's position in the decoder.")  # fmt: skip
        rows = reconstruction_tiles(result, mask, model.config.tubelet)
        numbers = losses_table(result.losses, model.target.motion)
        text = "".join("01"[int(h)] for h in hidden)
        return _Side(name, text, result, rows, tuple(words), numbers)

    def _misplaced(self, model: MaskedAutoencoder, mask: Tensor, order: TokenOrder) -> int:
        legacy = None if order == "model" else order == "published"
        return model.split(mask[None], legacy).num_misplaced

    def _controls_of(self, now: ReconstructionSettings) -> list[dict[str, Any]]:
        model = self.models[now.model]
        is_lgi, raw = model.config.has_regions, model.target.units != "cube"
        by_hand = now.places is not None
        own = "published" if model.config.legacy_visible_order else "right"
        order = own if now.token_order == "model" else now.token_order
        orders = {o: o + " (as trained)" * (o == own) for o in ("right", "published")}
        besides = self._besides(now)
        return [
            buttons("preset", "hide", {"eyes": "eyes", "mouth": "mouth", **HIDDEN_SHARES}),
            select("clip", "clip", now.clip, {name: plain(name) for name in self.clips}),
            select("model", "checkpoint", now.model, {name: plain(name) for name in self.models}),
            ratio_steps(now.ratio, self._ratios(model)),
            select("beside", "beside it", now.beside, besides),
            seed_number(now.seed, *(("clicked by hand", "changed by clicks") if by_hand else ())),
            select("token_order", "token order", order if is_lgi else "right", orders,
                   "" if is_lgi else "a ViT has no regions, and one order only", not is_lgi),
            select("statistics", "statistics", now.statistics, STATISTICS,
                   "raw targets need none" if raw else "", raw),
        ]  # fmt: skip


def _places(numbers: tuple[int, ...], size: int) -> Bool[Tensor, " hw"]:
    hidden = torch.zeros(size, dtype=torch.bool)
    hidden[list(numbers)] = True
    return hidden


def reconstruction_tiles(
    result: ClipReconstruction, mask: Bool[Tensor, " n"], tubelet: tuple[int, int, int]
) -> tuple[Row, ...]:
    """The seven pictures of a reconstruction, coloured."""
    cubes = mask.view(result.error.shape).numpy()
    is_hidden = per_pixel(cubes, tubelet)[..., None]

    def alone(pictures: np.ndarray) -> np.ndarray:
        return np.where(is_hidden, pictures, LEFT_OUT).astype(np.uint8)

    def scale(low: str, high: str, colours: str, note: str = "") -> dict[str, Any]:
        ends = {"low": low, "high": high, "colours": legend_colours(colours)}
        return {"scale": ends, "note": note}

    original, whole = as_bytes(result.original), as_bytes(result.reconstruction)
    heat = colour_table("viridis")[((result.error / ERROR_TOP).clip(0, 1) * 255).astype(int)]
    rows = [
        Row("original", original),
        Row("masked input", hatched(original, cubes, tubelet), more={"note": "hatched: hidden"}),
        Row("reconstruction", alone(whole), more={"note": ALONE}),
        Row("with visible cubes", whole),
    ]
    if len(original) % 2 == 0:
        predicted = alone(motion_pictures(result.predicted_motion))
        more = scale("darker", "brighter", "PuOr_r")
        rows += [
            Row("motion target", motion_pictures(result.motion), more=more),
            Row("predicted motion", predicted, more=more | {"note": ALONE}),
        ]
    more = scale("0", f"{ERROR_TOP:g} and more", "viridis", ALONE)
    return (*rows, Row("error per cube", alone(per_pixel(heat, tubelet)), more=more))


def motion_pictures(motion: np.ndarray) -> np.ndarray:
    """Change of brightness from even to odd frames in a diverging map, for both frames."""
    change = motion @ [0.299, 0.587, 0.114] * MOTION_GAIN
    index = ((change.clip(-1, 1) + 1) / 2 * 255).round().astype(int)
    return colour_table("PuOr_r")[index].repeat(2, 0)


# ---------------------------------------------------------------------- the readout, in words


def losses_table(losses: AllLosses, has_motion: bool) -> tuple[tuple[str, ...], ...]:
    """A head and a row for the model and for each baseline."""
    kinds = ("appearance", "motion") if has_motion else ("appearance",)
    rows = [("loss on hidden cubes", *kinds)]
    for name, label in {"model": "model", **BASELINES}.items():
        rows.append((label, *(f"{losses[name][kind]:.4f}" for kind in kinds)))
    return tuple(rows)


def describe_losses(losses: AllLosses, has_motion: bool) -> list[str]:
    """Whether the model beats the baselines, for appearance and for motion."""
    kinds = ("appearance", "motion") if has_motion else ("appearance",)
    sentences = [
        _compare(kind.capitalize(), {name: loss[kind] for name, loss in losses.items()})
        for kind in kinds
    ]
    if has_motion:
        return sentences
    own = "This model predicts the pixels of all frames; motion is no target of its own."
    return [*sentences, own]


def _compare(kind: str, losses: Mapping[str, float]) -> str:
    model = losses["model"]
    baselines = {label: losses[name] for name, label in BASELINES.items()}
    best = min(baselines, key=lambda label: baselines[label])
    beaten = [label for label, loss in baselines.items() if model < 0.99 * loss]
    if len(beaten) == len(baselines):
        less = 1 - model / baselines[best]
        return f"{kind}: beats all baselines; {less:.0%} lower loss than the best one ({best})."
    if model > 1.01 * baselines[best]:
        more = model / baselines[best] - 1 if baselines[best] else float("inf")
        return f"{kind}: {more:.0%} higher loss than the best baseline ({best})" + (
            f"; beats {len(beaten)} of {len(baselines)} baselines." if beaten else "."
        )
    return f"{kind}: no better than the best baseline ({best})."


def describe_statistics(statistics: str) -> str:
    """Where hidden cubes got their mean and deviation from."""
    return {
        "none": "Statistics: none needed; the targets are raw pixels, and nothing is borrowed from "
        "hidden ones.",
        "visible": "Statistics: visible only; hidden cubes get mean and deviation interpolated "
        "from visible ones, and nothing is borrowed.",
        "true": "Statistics: true; each hidden cube is un-normalised with its own mean and "
        "deviation, which already hold much of the face.",
    }[statistics]
