"""One run of the benchmark: what it measures on, taking times, and the checks before them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.benchmark import timer

from maedfer_lab.bench.floor import peak_macs
from maedfer_lab.bench.report import SIDES, TOLERANCE, Check, Row, Section
from maedfer_lab.config import EncoderKind, ModelConfig, Precision, PretrainConfig, base, tiny
from maedfer_lab.cost.memory import peak_bytes
from maedfer_lab.training.optim import has_bf16

Work = Callable[[], object]
NUM_CLASSES = 7


@dataclass
class Bench:
    """One run: where and on what it measures, and what it found so far.

    batch: clips of a pass through the model (pre-training: twice as many); by default 1 on a CPU,
        16 on a GPU. smoke: tiny models and few clips, to see that everything runs.
    folder: an empty one, for the benchmark's own data.
    """

    device: torch.device
    folder: Path
    seed: int = 0
    smoke: bool = False
    batch: int | None = None
    rows: list[Row] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def num(self) -> int:
        """Clips of a pass."""
        return self.batch or (1 if self.device.type == "cpu" else 16)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """float32, and bf16 where the device computes in it."""
        return ("float32", "bf16") if has_bf16(self.device) else ("float32",)

    def recipe(self, encoder: EncoderKind) -> PretrainConfig:
        """The paper's recipe or the tiny one; visible tokens in the order of the plain way."""
        config = (tiny if self.smoke else base)(encoder)
        return replace(config, model=replace(config.model, legacy_visible_order=True))

    def model(self, encoder: EncoderKind = "lgi", times: int = 1) -> ModelConfig:
        """The recipe's model, for clips that are `times` as long."""
        config = self.recipe(encoder).model
        return replace(config, frames=times * config.frames)

    def noise(self, num: int, times: int = 1) -> Tensor:
        """Clips of noise (num 3 T H W) in [0, 1]; no model's time depends on what they show."""
        shape = num, 3, self.model(times=times).frames, *2 * (self.model().size_px,)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(shape, generator=generator).to(self.device)

    def check(self, name: str, difference: float, tolerance: float | None = TOLERANCE) -> None:
        """Note a difference from the plain way.

        Raises:
            ValueError: it is too large (or nan); times of unequal things would say nothing.
        """
        if tolerance is not None and not difference < tolerance:
            raise ValueError(
                f"{name}: ours and the plain way differ by {difference:.3g}, {tolerance:g} is the "
                "most; no time was taken. `maedfer parity` and the tests show where they differ"
            )
        self.checks.append(Check(name, difference, tolerance))

    def measure(
        self,
        section: Section,
        works: Mapping[str, Work],
        num: int = 1,
        item: str = "clip",
        *,
        work_macs: Mapping[str, int] | None = None,
        warm_up: bool = True,
        most: int = 9,
        clock: Callable[[], float] = timer,
    ) -> None:
        """Time works named "ROW SIDE" in turn and add their rows, in seconds of one of `num` items.

        work_macs: multiply-adds of one item by row, for a GPU's utilisation; with it, peak memory
            is measured first.
        clock: `timer` waits for the device; `time.process_time` counts the seconds of all cores.
        """
        memory: dict[str, int] = {}
        for name, work in works.items() if warm_up else ():
            if work_macs is None:
                work()
            else:
                memory[name] = peak_bytes(work, self.device)
        taken = alternate(works, 0 if self.smoke else 15, 1 if self.smoke else 3, most, clock)
        for name in dict.fromkeys(name.rpartition(" ")[0] for name in works):
            sides = [side for side in SIDES if f"{name} {side}" in works]
            rounds = {side: [s / num for s in taken[f"{name} {side}"]] for side in sides}
            peaks = {s: memory[f"{name} {s}"] for s in sides if s != "floor" and memory}
            row = Row(section, name, rounds, item, peaks)
            if work_macs and self.device.type == "cuda":
                dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32
                reached = work_macs.get(name, 0) / row.median("ours")
                row = replace(row, utilisation=reached / peak_macs(self.device, dtype))
            self.rows.append(row)


def alternate(
    works: Mapping[str, Work],
    seconds: float,
    least: int,
    most: int,
    clock: Callable[[], float] = timer,
) -> dict[str, list[float]]:
    """Time works in turn, A B C A B C ..., so that what else slows the machine slows all alike.

    Until `seconds` are spent, within `least` and `most` rounds.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    start = time.perf_counter()
    for done in range(most):
        if done >= least and time.perf_counter() - start > seconds:
            break
        for name, work in works.items():
            began = clock()
            work()
            taken[name].append(clock() - began)
    return taken
