"""Run the numbered notebooks top to bottom, with progress, leaving their files untouched.

`python -m maedfer_lab.notebooks` is what `make reproduce` calls.
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
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from maedfer_lab.config import environment, output_folder, profile, project_folder
from maedfer_lab.files import figures_folder

# Notebooks that load what others leave in runs/, by number: never two of them side by side.
NEEDS = {"08": ("06",), "09": ("04",), "10": ("06", "08")}
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


def run_notebooks(
    paths: Sequence[Path],
    timeout_s: int | None,
    save_to: Path,
    report_every_s: float = 30,
    at_once: int = 1,
) -> None:
    """Run each notebook in a fresh kernel of this interpreter, in its own folder.

    They start in the order given, except that one waits for those of `paths` that it needs.

    timeout_s: limit of one cell; None sets none.
    save_to: folder of the executed copies (with outputs), also of one that failed.
    report_every_s: pause between two lines of progress within a notebook.
    at_once: notebooks that run side by side, each on its share of the CPU cores.

    Raises NotebookError at the first failing cell, KeyboardInterrupt when interrupted; the kernels
    are interrupted first, so that a training in them can keep its state.
    """
    save_to.mkdir(parents=True, exist_ok=True)
    threads = max(1, num_cores() // at_once)
    waiting, running = list(paths), dict[Future[None], _Execution]()
    stopped: BaseException | None = None
    with ThreadPoolExecutor(at_once) as pool:
        while running or (waiting and stopped is None):
            try:
                while stopped is None and len(running) < at_once:
                    left = [*waiting, *(one.path for one in running.values())]
                    path = next((path for path in waiting if not _needed(path, left)), None)
                    if path is None:
                        break
                    waiting.remove(path)
                    _say(f"[{len(paths) - len(waiting)}/{len(paths)}] {path.stem}")
                    one = _Execution(path, timeout_s, save_to / path.name, threads)
                    running[pool.submit(one.run, report_every_s)] = one
                for done in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                    del running[done]
                    done.result()
            except (KeyboardInterrupt, Exception) as error:
                stopped = stopped or error
                for one in running.values():
                    one.interrupt()
    if stopped is not None:
        raise stopped


def _needed(path: Path, left: Sequence[Path]) -> list[Path]:
    """Those of `left`, which have not ended yet, that `path` waits for."""
    return [other for other in left if other.name[:2] in NEEDS.get(path.name[:2], ())]


def num_cores() -> int:
    """CPU cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def main() -> int:
    """Run every notebook of the checkout at the chosen profile and return the exit status.

    Status 1: a cell failed. 2: nothing ran, because a setting is wrong. 130: interrupted.
    """
    try:
        chosen = profile()
        paths = find_notebooks(project_folder() / "notebooks")
    except (ValueError, OSError) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    # Two notebooks with a thread each get more out of two cores than one with two threads. Long
    # runs have the machine for themselves.
    at_once = 2 if num_cores() > 1 and chosen.name != "full" else 1
    expected = {path: chosen.minutes.get(path.name[:2], 0) for path in paths}
    paths.sort(key=lambda path: -expected[path])  # the longest first, beside which others run
    minutes = max(sum(expected.values()) / at_once, *expected.values())
    runs = output_folder() / "runs"
    places = f"figures in {figures_folder(chosen.name)}, runs in {runs}"
    _say(
        f"Runs {len(paths)} notebooks at the {chosen.name} profile: about {_duration(minutes)}, "
        f"less when runs are there already; {places}."
    )
    copies = runs / "notebooks" / chosen.name
    start = time.monotonic()
    try:
        run_notebooks(paths, timeout_s=None, save_to=copies, at_once=at_once)
    except NotebookError as error:
        print(f"reproduce: {error}\nAs far as it ran: {copies}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nreproduce: stopped; the same command goes on from what is kept", file=sys.stderr)
        return 130
    _say(f"All done in {_minutes_since(start)}: {places}, executed notebooks in {copies}.")
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
        _say(f"      {self.path.stem} done in {_minutes_since(start)}")

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
