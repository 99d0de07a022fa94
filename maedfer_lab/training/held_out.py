"""Validation of a masked autoencoder on clips of unseen people, with model-free baselines."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from maedfer_lab.config import Precision
from maedfer_lab.method.masking import TokenSplit
from maedfer_lab.method.models import MaskedAutoencoder, model_mask
from maedfer_lab.method.reconstruction import interpolation_baseline
from maedfer_lab.method.targets import Losses, make_target, reconstruction_loss, target_width
from maedfer_lab.training.optim import mixed_precision

HELD_OUT_SEED = 20_230_707  # of the masks: the same for every model, so that losses compare
CHUNK = 8  # clips at a time


class HeldOut:
    """Held-out clips with fixed masks; losses over hidden tokens, in the model's target units."""

    def __init__(
        self,
        model: MaskedAutoencoder,
        clips: Float[Tensor, "b 3 T H W"],
        ratio: float,
        seed: int = HELD_OUT_SEED,
    ) -> None:
        mask = model_mask(model, ratio, len(clips), torch.Generator().manual_seed(seed))
        self.model, self.ratio = model, ratio
        self.parts = [
            (clip, model.split(part))
            for clip, part in zip(clips.split(CHUNK), mask.split(CHUNK), strict=True)
        ]

    def losses(self, precision: Precision = "float32") -> Losses:
        """The model's held-out losses."""
        device = next(self.model.parameters()).device
        self.model.eval()
        with mixed_precision(precision, device):
            return self._mean(self.model.predict, device)

    def baselines(self) -> dict[str, Losses]:
        """Losses of predicting zero and of interpolating the visible cubes.

        Zero is ImageNet's mean colour without motion for raw targets; for targets normalised per
        cube, each cube's own mean.
        """
        config, cpu = self.model.config, torch.device("cpu")
        values = target_width(config, self.model.target)

        def zero(clip: Tensor, split: TokenSplit) -> Tensor:
            return clip.new_zeros(len(clip), split.masked.shape[1], values)

        def interpolation(clip: Tensor, split: TokenSplit) -> Tensor:
            return interpolation_baseline(clip, split, config.tubelet, self.model.target)

        return {"zero": self._mean(zero, cpu), "interpolation": self._mean(interpolation, cpu)}

    @torch.no_grad()
    def _mean(
        self, predict: Callable[[Tensor, TokenSplit], Tensor], device: torch.device
    ) -> Losses:
        grid, tubelet, goal = self.model.grid, self.model.config.tubelet, self.model.target
        total: Losses = {"appearance": 0.0, "motion": 0.0}
        for clip, split in self.parts:
            clip, split = clip.to(device), split.to(device)
            target = make_target(clip, tubelet, goal, index=split.masked)
            guess = predict(clip, split)
            loss = reconstruction_loss(guess, target, split.masked, grid, tubelet, goal)
            for kind in total:
                total[kind] += float(getattr(loss, kind)) * len(clip)
        count = sum(len(clip) for clip, _ in self.parts)
        return {kind: value / count for kind, value in total.items()}
