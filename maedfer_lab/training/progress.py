"""What a training shows while it runs, and how it is stopped."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from maedfer_lab.config import OptimConfig

BRAKE = 0.3  # share of waiting above which the data are called the brake
JUDGED_AFTER = 20  # steps, before that is said


class Progress:
    """A bar with loss, rate, clips/s, the share of time spent waiting for data, and time left.

    seconds: time of training so far, with that of the parts before a resume.
    """

    def __init__(
        self,
        name: str,
        start: int,
        optim: OptimConfig,
        seconds: float,
        workers: int,
        shown: bool,
        is_drawn: bool = False,
    ) -> None:
        self.bar = tqdm(total=optim.last_step, initial=start, desc=name, unit="step",
                        disable=not shown)  # fmt: skip
        self.batch_size, self.workers = optim.batch_size, workers
        self.began = time.monotonic() - seconds
        self._steps, self._waited, self._since = 0, 0.0, time.monotonic()
        self._told = is_drawn  # of clips that are drawn once and kept, the wait soon ends by itself

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    @property
    def seconds(self) -> float:
        """Time of training so far."""
        return time.monotonic() - self.began

    @property
    def waited(self) -> float:
        """Share of the time, in [0, 1], that went by in waiting for data."""
        return self._waited / max(time.monotonic() - self._since, 1e-9)

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches, with the wait for each measured."""
        while True:
            before = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.monotonic() - before
            yield batch

    def update(self) -> None:
        """Count a step. The first is left out of the rates: there files open and caches fill."""
        self.bar.update()
        self._steps += 1
        if self._steps == 1:
            self._waited, self._since = 0.0, time.monotonic()
        if self._steps > JUDGED_AFTER and self.waited > BRAKE and not self._told:
            self._told = True
            self.write(
                f"{self.waited:.0%} of the time goes by in waiting for data: data are the brake. "
                f"Use workers={max(2 * self.workers, 2)}, or prepare the clips (maedfer prepare)"
            )

    def show(self, row: dict[str, float | int], skipped: int) -> None:
        """Show a row of the log."""
        if self._steps < 2:
            return
        rate = (self._steps - 1) * self.batch_size / (time.monotonic() - self._since)
        more = {"fp16_skipped": skipped} if skipped else {}
        self.bar.set_postfix(
            {"loss": f"{row['loss']:.3f}", "lr": f"{row['lr']:.1e}", "clips/s": f"{rate:.1f}",
             "waiting": f"{self.waited:.0%}", **more}
        )  # fmt: skip

    def write(self, text: str) -> None:
        """Say something without tearing the bar."""
        if not self.bar.disable:
            self.bar.write(text, file=sys.stderr)


@contextmanager
def delayed_interrupt() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into a flag, so that a step is never torn.

    A second Ctrl-C stops at once, unless it comes within a second: launchers pass on the Ctrl-C
    that their processes have had already, and send SIGTERM after it. Outside the main thread
    signals stay as they are.
    """
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    first_s = 0.0

    def note(number: int, _: object) -> None:
        nonlocal first_s
        if not flag.is_set():
            first_s = time.monotonic()
            flag.set()
        elif number == signal.SIGINT and time.monotonic() - first_s > 1:
            raise KeyboardInterrupt

    for number in previous:
        signal.signal(number, note)
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
