"""Run a numbered notebook top to bottom, with progress, leaving its file untouched.

`make reproduce` calls it once for each notebook; `make -j` decides which run side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from maedfer_lab.config import environment, output_folder, profile, project_folder
from maedfer_lab.files import figures_folder

_ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class NotebookError(RuntimeError):
    """A notebook stopped; the text holds its name, the failing cell and that cell's error."""


def find_notebooks(folder: Path) -> list[Path]:
    """Return the numbered notebooks (NN_name.ipynb) of `folder` in reading order.

    Raises FileNotFoundError where there are none.
    """
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise FileNotFoundError(
            f"folder={str(folder)!r} holds no notebook named like 01_clips.ipynb"
        )
    return paths


def run_notebook(
    path: Path, save_to: Path, timeout_s: int | None = None, *, threads: int = 1,
    report_every_s: float = 30,
) -> None:  # fmt: skip
    """Run a notebook in a fresh kernel of this interpreter, in the notebook's own folder.

    save_to: folder of the executed copy (with outputs), also of one that failed.
    timeout_s: limit of one cell; None sets none. threads: CPU threads of the kernel, at most.
    report_every_s: pause between two lines of progress.

    Raises NotebookError at the first failing cell, KeyboardInterrupt when interrupted; the kernel
    is interrupted first, so that a training in it can keep its state.
    """
    save_to.mkdir(parents=True, exist_ok=True)
    one = _Execution(path, timeout_s, save_to / path.name, threads)
    with ThreadPoolExecutor(1) as pool:  # a thread, so that Ctrl-C reaches us and not nbclient
        running = pool.submit(one.run, report_every_s)
        while not running.done():
            try:
                wait([running], timeout=1)  # Windows notices Ctrl-C between two waits
            except KeyboardInterrupt:
                one.interrupt()
        running.result()


def num_cores() -> int:
    """CPU cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def main(arguments: Sequence[str] | None = None) -> int:
    """`plan` prints make's -j and what lies ahead; a notebook's name runs it; returns a status.

    Status 1: a cell failed. 2: nothing ran, because a setting is wrong. 130: interrupted.
    """
    (what,) = sys.argv[1:] if arguments is None else arguments
    try:
        chosen = profile()
        paths = find_notebooks(project_folder() / "notebooks")
        runs = output_folder() / "runs"
        # Two notebooks with a thread each get more out of two cores than one with two threads.
        # Long runs have the machine for themselves.
        at_once = 2 if num_cores() > 1 and chosen.name != "full" else 1
        if what == "jobs":
            print(at_once)
            return 0
        copies = runs / "notebooks" / chosen.name
        places = f"figures in {figures_folder(chosen.name)}, runs in {runs}"
        if what in ("plan", "end"):
            expected = [chosen.minutes.get(path.name[:2], 0) for path in paths]
            minutes = max(sum(expected) / at_once, *expected)
            _say(
                f"Runs {len(paths)} notebooks at the {chosen.name} profile: about "
                f"{_duration(minutes)}, less when runs are there already; {places}."
                if what == "plan"
                else f"All done: {places}, executed notebooks in {copies}."
            )
            return 0
        known = {path.stem: path for path in paths}
        if what not in known:
            raise ValueError(f"no notebook is called {what!r}; there are {', '.join(known)}")
    except (ValueError, OSError) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    try:
        run_notebook(known[what], copies, threads=max(1, num_cores() // at_once))
    except NotebookError as error:
        print(f"reproduce: {error}\nAs far as it ran: {copies}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nreproduce: {what} stopped; the same command goes on from what is kept",
              file=sys.stderr)  # fmt: skip
        return 130
    return 0


class _Stopped(Exception):
    """No further cell is begun."""


class _Execution:
    """One notebook in a kernel of its own; `run` in one thread, `interrupt` from another."""

    def __init__(self, path: Path, timeout_s: int | None, copy: Path, threads: int) -> None:
        self.path, self.copy, self.threads = path, copy, threads
        self.notebook = nbformat.read(path, as_version=4)
        # An empty list of kernel folders leaves the one kernel that runs sys.executable: a kernel
        # registered elsewhere as "python3" cannot take its place.
        self.kernel = AsyncKernelManager(
            kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[])
        )
        self.client = NotebookClient(
            self.notebook,
            km=self.kernel,
            timeout=timeout_s,
            resources={"metadata": {"path": str(path.parent)}},
            extra_arguments=["--log-level=ERROR"],
            shutdown_kernel="immediate",  # all is written; a polite farewell takes seconds
            on_cell_start=self._check,
        )
        self.loop: asyncio.AbstractEventLoop | None = None
        self.begun = self.interrupted = False

    def run(self, report_every_s: float) -> None:
        """Run all cells and write the copy; raises NotebookError, or KeyboardInterrupt."""
        start = time.monotonic()
        _say(f"[start] {self.path.stem}")
        try:
            with self._reports(report_every_s):
                asyncio.run(self._execute())
        except (CellExecutionError, CellTimeoutError, DeadKernelError, _Stopped) as error:
            if not self.interrupted:
                text = _ANSI_COLOUR.sub("", str(error))
                raise NotebookError(f"{self.path.name} failed.\n{text}") from None
        finally:
            nbformat.write(self.notebook, self.copy)
        if self.interrupted:
            raise KeyboardInterrupt
        _say(f"[done]  {self.path.stem} in {_minutes_since(start)}")

    def interrupt(self) -> None:
        """Interrupt the running cell, as Ctrl-C does; no further cell is begun."""
        self.interrupted = True
        if self.loop is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended
                self.loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self._interrupt()))

    async def _execute(self) -> None:
        self.loop = asyncio.get_running_loop()
        await self.client.async_execute(cleanup_kc=True, env=environment(self.threads))

    async def _interrupt(self) -> None:
        if self.begun and self.kernel.has_kernel:  # one that still starts would die of it
            await self.kernel.interrupt_kernel()

    def _check(self, **_: object) -> None:
        if self.interrupted:
            raise _Stopped
        self.begun = True

    @contextlib.contextmanager
    def _reports(self, every_s: float) -> Iterator[None]:
        """Say from time to time which cell runs, and the last line that it printed."""
        start, ended = time.monotonic(), threading.Event()
        code = [cell for cell in self.notebook.cells if cell.cell_type == "code"]

        def report() -> None:
            while not ended.wait(every_s):
                begun = [cell for cell in code if "execution" in cell.metadata]
                printed = "".join(
                    out.text
                    for cell in begun[-1:]
                    for out in list(cell.outputs)
                    if out.output_type == "stream"
                )
                last_line = (printed.rstrip().splitlines() or [""])[-1][-100:]
                place = f"{self.path.stem}, cell {len(begun)} of {len(code)}"
                _say(f"      {place}, {_minutes_since(start)}  {last_line}".rstrip())

        thread = threading.Thread(target=report, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _minutes_since(start: float) -> str:
    return f"{(time.monotonic() - start) / 60:.1f} min"


def _duration(minutes: float) -> str:
    return f"{max(1, round(minutes))} min" if minutes < 120 else f"{minutes / 60:.0f} hours"


def _say(line: str) -> None:
    print(f"{line}\n", end="", flush=True)  # whole, though several threads speak


if __name__ == "__main__":
    sys.exit(main())
