"""What a benchmark runs on and with: device, models, sizes of its data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from maedfer_lab.bench.timing import Stopwatch
from maedfer_lab.config import EncoderKind, ModelConfig, Precision, PretrainConfig, base, tiny
from maedfer_lab.training.optim import has_bf16

NAMES: dict[EncoderKind, str] = {"lgi": "LGI-B", "vit": "ViT-B"}
NUM_CLASSES = 7


@dataclass(frozen=True)
class Settings:
    """Of one run.

    smoke: tiny models and few clips, to see that everything runs; the times say nothing.
    batch: clips of a pass through the model (pre-training: twice as many); by default 1 on a CPU,
        16 on a GPU.
    folder: an empty one, for the benchmark's own data.
    """

    watch: Stopwatch
    folder: Path
    seed: int = 0
    smoke: bool = False
    batch: int | None = None

    @property
    def device(self) -> torch.device:
        """Where the models run."""
        return self.watch.device

    @property
    def clips(self) -> int:
        """Clips of a pass."""
        return self.batch or (1 if self.device.type == "cpu" else 16)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """float32, and bf16 where the device computes in it."""
        return ("float32", "bf16") if has_bf16(self.device) else ("float32",)

    def recipe(self, encoder: EncoderKind) -> PretrainConfig:
        """The paper's model and recipe, or the tests' tiny one.

        Visible tokens come in the published order, so that the plain way gives equal outputs.
        """
        config = (tiny if self.smoke else base)(encoder)
        return replace(config, model=replace(config.model, legacy_visible_order=True))

    def model(self, encoder: EncoderKind, times: int = 1) -> ModelConfig:
        """The model of `recipe`; for clips that are `times` as long."""
        config = self.recipe(encoder).model
        return replace(config, frames=times * config.frames)
