"""Taking times: candidates in turn, many rounds, medians and quartiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Work = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Timing:
    """Seconds that a piece of work took in each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Middle of the rounds."""
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the rounds lies below the first, a quarter above the second."""
        low, high = np.percentile(self.seconds, [25, 75])
        return float(low), float(high)

    def per(self, items: int) -> Timing:
        """The time of one of `items` that were done together."""
        return Timing(tuple(second / items for second in self.seconds))


@dataclass(frozen=True)
class Stopwatch:
    """How long a comparison goes on: until `seconds` are spent, within `least` and `most` rounds.

    device: what the work runs on; it is waited for before the clock is read.
    """

    device: torch.device
    seconds: float = 15.0
    least: int = 3
    most: int = 9

    def alternate(
        self,
        works: Mapping[str, Work],
        *,
        warm_up: bool = True,
        clock: Clock = time.perf_counter,
    ) -> dict[str, Timing]:
        """Time the works in turn, A B C A B C ..., so that all meet the same moods of the machine.

        warm_up: run each once before.
        clock: what counts; `time.process_time` counts the seconds of all cores of this process.
        """
        if warm_up:
            for work in works.values():
                work()
        taken: dict[str, list[float]] = {name: [] for name in works}
        start = time.perf_counter()
        for done in range(self.most):
            if done >= self.least and time.perf_counter() - start > self.seconds:
                break
            for name, work in works.items():
                taken[name].append(self.once(work, clock))
        return {name: Timing(tuple(seconds)) for name, seconds in taken.items()}

    def once(self, work: Work, clock: Clock = time.perf_counter) -> float:
        """Seconds of one run."""
        self._wait()
        start = clock()
        work()
        self._wait()
        return clock() - start

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


def pick(timings: Mapping[str, Timing], prefix: str = "") -> dict[str, Any]:
    """The timings named "PREFIX ours", "PREFIX floor" and "PREFIX plain", as a row takes them."""
    named = {side: timings.get(f"{prefix} {side}".strip()) for side in ("ours", "floor", "plain")}
    return {side: timing for side, timing in named.items() if timing is not None}
