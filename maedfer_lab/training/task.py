"""What the training loop asks of a training: its model, clips, loss and judgement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from maedfer_lab.config import OptimConfig, Precision


class TrainConfig(Protocol):
    """What the loop reads of a configuration (PretrainConfig and FinetuneConfig have it all)."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def optim(self) -> OptimConfig: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def precision(self) -> Precision: ...  # noqa: D102
    @property
    def eval_every(self) -> int | None: ...  # noqa: D102
    @property
    def save_every(self) -> int: ...  # noqa: D102


class Task(ABC):
    """What the loop asks of a training.

    config: its name, recipe, seed, precision, and how often it is judged (eval_every; None: after
        the last step alone) and saved.
    model: the module that is trained; its state dict goes into the checkpoints.
    stream: item i is clip i of an endless stream, always the same for the same i (a clip, or a
        tuple of tensors). Step s (from 0) takes items s * B to s * B + B - 1, B = batch_size.
    log_every: steps whose means make a row of the log; a row ends where the model is judged.
    idle_parameters: whether some parameters get no gradient in some steps, although they
        require one; many processes then need a slower way of joining gradients.
    """

    config: TrainConfig
    model: nn.Module
    stream: Dataset
    log_every: int = 1
    idle_parameters: bool = False

    @abstractmethod
    def optimiser(self) -> torch.optim.Optimizer:
        """A new optimiser. Each step sets the rate of a group: the schedule's x its `lr_scale`."""

    @abstractmethod
    def loss(
        self, network: nn.Module, batch: Any, step: int, places: Sequence[int]
    ) -> Mapping[str, Tensor]:
        """Mean losses over a part of a batch: "loss" is followed, the others are logged with it.

        network: `model`, wrapped where there are many processes; call this one.
        batch: the clips at `places` of the batch of step `step` (from 0), on the device.
        places: in [0, batch_size), from `own_share`. What is random must depend on (seed, step,
            place), or use torch's own random numbers, which the loop seeds for every part.
        """

    @abstractmethod
    def names(self, indices: Sequence[int]) -> list[str]:
        """The names of these items of the stream, for messages."""

    @abstractmethod
    def judge(self) -> dict[str, float]:
        """Measure `model`; merged into the log's row. Called by all processes, every eval_every."""

    def state_dict(self) -> dict[str, Any]:
        """What else a resumed run must know, as plain values and tensors (say, the best score)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        if state:
            raise NotImplementedError(f"{type(self).__name__} keeps {sorted(state)}: load them too")
