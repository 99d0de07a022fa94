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
    GREY,
    MOTION_GAIN,
    ClipReconstruction,
    Statistics,
    TokenOrder,
    reconstruct_clip,
)
from maedfer_lab.viewers.masking import nearest_ratio, toggle_tube
from maedfer_lab.viewers.player import Player, check_seed, pick, ratio_steps, seed_number, select
from maedfer_lab.viewers.scene import GREY as GREY_BYTE
from maedfer_lab.viewers.scene import (
    Row,
    View,
    as_bytes,
    check_fits,
    legend_colours,
    name_clips,
    plain,
)

AllLosses = Mapping[str, Mapping[str, float]]  # of the model and of each baseline
STATISTICS = {"visible": "visible only", "true": "true (borrowed)"}


@dataclass(frozen=True)
class ReconstructionSettings:
    """What is to be reconstructed.

    places: hidden places of a frame, once cubes were clicked; None draws them from `seed`.
    token_order: "model" is the order the model was trained in.
    note: what the viewer has to say about the last change.
    """

    model: str
    clip: str
    ratio: float
    seed: int = 0
    statistics: Statistics = "visible"
    token_order: TokenOrder = "model"
    places: tuple[int, ...] | None = None
    note: str = ""


class ReconstructionViewer(Player[ReconstructionSettings]):
    """Live masks on a clip: original, input, reconstruction, motion and error, frame by frame.

    models: one masked autoencoder, or several by name (checkpoints to choose from).
    clips: one clip (3, T, H, W) with pixels in [0, 1], a batch or list of them, or {name: clip}.
    ratio: share of hidden cubes; moved to the nearest that hides equally many in each region.
    seed: of the mask.
    statistics: "visible" borrows nothing from hidden pixels, "true" un-normalises each hidden
        cube with its own mean and deviation; without effect for models of raw targets.
    token_order: of visible tokens in the decoder: "right", as "published", or as the "model" was
        trained.
    result: what `reconstruct_clip` gave for the first clip and model with these settings, where it
        has been computed already.

    A click hides or shows a cube at all times (its tube). LGI-Former needs equally many visible
    cubes in each region, so there a click does the same at the same place of every other region;
    where that place is so already, at the nearest one that is not. A ViT has no such rule.

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
        ratio: float = 0.9,
        seed: int = 0,
        statistics: Statistics = "visible",
        token_order: TokenOrder = "model",
        result: ClipReconstruction | None = None,
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
        super().__init__(replace(now, note="" if ratio == 0.9 else now.note))

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
        if name == "tube":
            hidden, note = toggle_tube(
                self._hidden_places(now), value, model.grid, self._region(model)
            )
            ratio = float(hidden.float().mean())
            ratio = min(self._ratios(model), key=lambda known: abs(known - ratio))
            places = tuple(torch.nonzero(hidden).flatten().tolist())
            return replace(now, places=places, ratio=ratio, note=note)
        if name == "model":
            model = self.models[pick(name, value, self.models)]
            found, note = nearest_ratio(now.ratio, self._ratios(model))
            return replace(now, model=value, ratio=found, places=None, note=note)
        known = {
            "clip": tuple(self.clips),
            "statistics": tuple(STATISTICS),
            "token_order": ("model", "right", "published"),
        }
        if name not in known:
            raise ValueError(f"{plain(name)!r} is nothing that can be set; known: ratio, seed, "
                             f"model, tube, {', '.join(known)}")  # fmt: skip
        return replace(now, **{name: pick(name, value, known[name])})

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
        hidden = torch.zeros(size, dtype=torch.bool)
        hidden[list(now.places)] = True
        return hidden

    # ------------------------------------------------------------------ looks

    def _look(self, now: ReconstructionSettings) -> View:
        model, clip = self.models[now.model], self.clips[now.clip]
        check_fits(now.clip, clip, model.config)
        hidden = self._hidden_places(now)
        mask = hidden.repeat(model.grid.t)
        result, self._computed = self._computed, None
        result = result or reconstruct_clip(model, clip, mask, now.statistics, now.token_order)
        self.result, self.mask = result, mask
        region = self._region(model)
        visible = int((~mask).sum())
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
        return View(
            viewer="reconstruction",
            title=f"Reconstruction of {plain(now.clip)} by {plain(now.model)}",
            rows=reconstruction_tiles(result, mask, model.config.tubelet),
            grid=model.grid.shape,
            tubelet=model.config.tubelet,
            region=region,
            sentences=tuple(words),
            numbers=losses_table(result.losses, model.target.motion),
            note=now.note,
            more={
                "hidden": "".join("01"[int(h)] for h in hidden),
                "visible": visible,
                "click": "tube",
                "values": [{"label": "error", "offset": 0}],
            },
            table=result.error.astype("<f4").tobytes(),
        )

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
        return [
            select("clip", "clip", now.clip, {name: plain(name) for name in self.clips}),
            select("model", "checkpoint", now.model, {name: plain(name) for name in self.models}),
            ratio_steps(now.ratio, self._ratios(model)),
            seed_number(now.seed, *(("clicked by hand", "changed by clicks") if by_hand else ())),
            select("token_order", "token order", order if is_lgi else "right", orders,
                   "" if is_lgi else "a ViT has no regions, and one order only", not is_lgi),
            select("statistics", "statistics", now.statistics, STATISTICS,
                   "raw targets need none" if raw else "", raw),
        ]  # fmt: skip


def reconstruction_tiles(
    result: ClipReconstruction, mask: Bool[Tensor, " n"], tubelet: tuple[int, int, int]
) -> tuple[Row, ...]:
    """The seven pictures of a reconstruction, coloured."""
    pt, ph, pw = tubelet

    def per_pixel(cubes: np.ndarray) -> np.ndarray:
        return cubes.repeat(pt, 0).repeat(ph, 1).repeat(pw, 2)

    is_hidden = per_pixel(mask.view(result.error.shape).numpy())[..., None]
    alone = np.where(is_hidden, result.reconstruction, GREY)
    top = float(np.quantile(result.error[result.error > 0], 0.98)) if result.error.any() else 1.0
    heat = colour_table("viridis")[((result.error / top).clip(0, 1) * 255).astype(int)]
    heat = np.where(is_hidden, per_pixel(heat), GREY_BYTE).astype(np.uint8)
    rows = [
        Row("original", as_bytes(result.original)),
        Row("masked input", as_bytes(result.masked)),
        Row("reconstruction", as_bytes(alone)),
        Row("with visible cubes", as_bytes(result.reconstruction)),
    ]
    if len(result.original) % 2 == 0:
        predicted = motion_pictures(result.predicted_motion)
        predicted = np.where(is_hidden, predicted, GREY_BYTE).astype(np.uint8)
        scale = {
            "scale": {"low": "darker", "high": "brighter", "colours": legend_colours("PuOr_r")}
        }
        rows += [
            Row("motion target", motion_pictures(result.motion), more=scale),
            Row("predicted motion", predicted, more=scale),
        ]
    scale = {"scale": {"low": "0", "high": f"{top:.2g}", "colours": legend_colours("viridis")}}
    return (*rows, Row("error per cube", heat, more=scale))


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
