"""Trainings without their data, for `estimate`: the same steps on clips of random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from maedfer_lab.config import FinetuneConfig, PretrainConfig
from maedfer_lab.data.transforms import to_floats
from maedfer_lab.method.models import build_autoencoder, build_classifier
from maedfer_lab.training.loop import Task
from maedfer_lab.training.optim import make_optimiser
from maedfer_lab.training.pretrain import PretrainTask

CLASSES = 7  # of a classifier that is estimated; a few more change nothing


class RandomPretraining(PretrainTask):
    """Pre-training without its data."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.model = build_autoencoder(config.model, config.target, seed=config.seed)

    def loss(
        self, network: nn.Module, batch: Tensor, step: int, places: Sequence[int]
    ) -> dict[str, Tensor]:
        """As in training, with as many masks as clips are at hand."""
        whole = self.config
        self.config = replace(
            whole, optim=replace(whole.optim, batch_size=len(batch), accumulate=1)
        )
        try:
            return super().loss(network, batch, step, places)
        finally:
            self.config = whole


class RandomFinetuning(Task):
    """A classifier without its data."""

    config: FinetuneConfig

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config
        self.model = build_classifier(config.model, CLASSES, seed=config.seed)

    def optimiser(self) -> torch.optim.Optimizer:
        """AdamW; layer decay changes neither memory nor time."""
        return make_optimiser(self.model, self.config.optim)

    def loss(
        self, network: nn.Module, batch: Tensor, step: int, places: Sequence[int]
    ) -> dict[str, Tensor]:
        """Cross-entropy."""
        labels = torch.zeros(len(batch), dtype=torch.long, device=batch.device)
        return {"loss": functional.cross_entropy(network(to_floats(batch)).float(), labels)}

    def names(self, indices: Sequence[int]) -> list[str]:
        """Random clips have no names."""
        return [f"random clip {index}" for index in indices]

    def judge(self) -> dict[str, float]:
        """Nothing to judge."""
        return {}
