"""One step of the optimisation: devices, processes, precision, parts of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device

from maedfer_lab.config.schedule import learning_rate
from maedfer_lab.data.memory import keep_freed_memory
from maedfer_lab.fast import speed_up
from maedfer_lab.runs import LogRow
from maedfer_lab.training.devices import open_accelerator
from maedfer_lab.training.optim import amp_dtype, mixed_precision
from maedfer_lab.training.shares import Parts
from maedfer_lab.training.task import Task


class Stepper:
    """One step of the optimisation at a time, on this process's share of the batch."""

    def __init__(self, task: Task, compile: bool = False) -> None:
        self.task = task
        keep_freed_memory()
        self.accelerator = open_accelerator(task.idle_parameters)
        self.device = self.accelerator.device
        self.optimiser = task.optimiser()
        network = self.accelerator.prepare_model(speed_up(task.model))
        # Compiled, there is one graph for each share of hidden tokens, of fixed sizes.
        self.network: Any = torch.compile(network, dynamic=False) if compile else network
        half = amp_dtype(task.config.precision, self.device) == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.skipped = 0

    def parts(self, start: int) -> Parts:
        """Which items this process reads from step `start` on."""
        processes, index = self.accelerator.num_processes, self.accelerator.process_index
        return Parts(self.task.config.optim, processes, index, start)

    def step(self, step: int, batches: Iterator[Any], shares: Sequence[Sequence[int]]) -> LogRow:
        """Take one batch in parts, follow the gradient of its mean loss; losses stay tensors."""
        task, optim = self.task, self.task.config.optim
        rate = learning_rate(step, optim)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        task.model.train()
        means: dict[str, Any] = {}
        for part, places in enumerate(shares):
            batch = next(batches)
            batch = tuple(batch) if isinstance(batch, list) else batch  # as the items, not as torch
            batch = send_to_device(batch, self.device, non_blocking=True)
            number = self.accelerator.process_index * len(shares) + part
            torch.manual_seed(_seed(task.config.seed, step, number))
            is_last = part == len(shares) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.network):
                with mixed_precision(task.config.precision, self.device):
                    losses = task.loss(self.network, batch, step, places)
                self.accelerator.backward(self.scaler.scale(losses["loss"] / len(shares)))
            for name, loss in losses.items():
                means[name] = means.get(name, 0) + loss.detach().float() / len(shares)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.skipped += self.scaler.get_scale() < scale
        self.optimiser.zero_grad()
        return {"step": step + 1, "lr": rate, **means}

    def read(self, rows: list[LogRow]) -> list[LogRow]:
        """The rows with their losses as numbers, averaged over the processes."""
        names = [name for name in (rows[0] if rows else {}) if name not in ("step", "lr")]
        if not names:
            return []
        values = torch.stack([torch.stack([row[name] for name in names]) for row in rows])  # type: ignore
        means = self.accelerator.reduce(values, "mean").tolist()  # type: ignore
        return [
            {"step": row["step"], "lr": row["lr"], **dict(zip(names, mean, strict=True))}
            for row, mean in zip(rows, means, strict=True)
        ]

    def agree(self, flag: bool) -> bool:
        """Whether any process raised its flag."""
        if self.accelerator.num_processes == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        return bool(self.accelerator.reduce(flags, "sum") > 0)  # type: ignore

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser, scaler, and the task's own."""
        parts = {"model": self.task.model, "optimiser": self.optimiser, "scaler": self.scaler,
                 "task": self.task}  # fmt: skip
        return {**{k: part.state_dict() for k, part in parts.items()}, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.task.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.task.load_state_dict(state["task"])
        self.skipped = state["skipped"]


def _seed(seed: int, step: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, step, number]).generate_state(1, np.uint64)[0])
