"""Run a numbered notebook top to bottom, with progress, leaving its file untouched.

`make reproduce` calls it once for each notebook; `make -j` decides which run side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from maedfer_lab.config import environment, num_cores, output_folder, profile, project_folder
from maedfer_lab.files import figures_folder

_ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class NotebookError(RuntimeError):
    """A notebook stopped; the text holds its name, the failing cell and that cell's error."""


def find_notebooks(folder: Path) -> list[Path]:
    """Return the numbered notebooks (NN_name.ipynb) of `folder` in reading order.

    Raises FileNotFoundError if there are none.
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
    is interrupted first, so that a training in it can save its state.
    """
    save_to.mkdir(parents=True, exist_ok=True)
    notebook, start = nbformat.read(path, as_version=4), time.monotonic()
    # An empty list of kernel folders leaves the one kernel that runs sys.executable: a kernel
    # registered elsewhere as "python3" cannot take its place.
    specs = KernelSpecManager(kernel_dirs=[])
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
    loops: list[asyncio.AbstractEventLoop] = []
    begun, stopping = threading.Event(), threading.Event()

    def on_cell_start(**_: object) -> None:
        if stopping.is_set():
            raise _Stopped
        begun.set()

    client = NotebookClient(
        notebook, km=kernel, timeout=timeout_s, resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=ERROR"], on_cell_start=on_cell_start,
        shutdown_kernel="immediate",  # all is written; a polite farewell takes seconds
    )  # fmt: skip

    async def execute() -> None:
        loops.append(asyncio.get_running_loop())
        await client.async_execute(cleanup_kc=True, env=environment(threads))

    async def interrupt() -> None:
        if begun.is_set() and kernel.has_kernel:  # one that still starts would die of it
            await kernel.interrupt_kernel()

    _say(f"[start] {path.stem}")
    with ThreadPoolExecutor(1) as pool:  # a thread, so that Ctrl-C reaches us and not nbclient
        running, said = pool.submit(asyncio.run, execute()), start
        while not running.done():
            try:  # Windows notices Ctrl-C between two waits
                wait([running], timeout=min(1, report_every_s))
                if time.monotonic() - said >= report_every_s:
                    said = time.monotonic()
                    _say(f"      {path.stem}, {_progress(notebook, start)}")
            except KeyboardInterrupt:
                stopping.set()  # no further cell is begun
                with contextlib.suppress(RuntimeError):  # it has just ended
                    for loop in loops:
                        asyncio.run_coroutine_threadsafe(interrupt(), loop)
    nbformat.write(notebook, save_to / path.name)
    if stopping.is_set():
        raise KeyboardInterrupt
    try:
        running.result()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise NotebookError(_ANSI_COLOUR.sub("", f"{path.name} failed.\n{error}")) from None
    _say(f"[done]  {path.stem} in {_minutes_since(start)}")


def _progress(notebook: nbformat.NotebookNode, start: float) -> str:
    """Which cell runs, and the last line that it printed."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    begun = [cell for cell in code if "execution" in cell.metadata]
    printed = "".join(out.text for cell in begun[-1:] for out in list(cell.outputs)
                      if out.output_type == "stream")  # fmt: skip
    last_line = (printed.rstrip().splitlines() or [""])[-1][-100:]
    return f"cell {len(begun)} of {len(code)}, {_minutes_since(start)}  {last_line}".rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """`jobs` prints make's -j, `plan` the expected time; a notebook's name runs it; gives a status.

    Status 1: a cell failed. 2: nothing ran, because a setting is wrong. 130: interrupted.
    """
    (what,) = sys.argv[1:] if arguments is None else arguments
    try:
        chosen, runs = profile(), output_folder() / "runs"
        known = {path.stem: path for path in find_notebooks(project_folder() / "notebooks")}
        # Two notebooks with a thread each get more out of two cores than one with two threads.
        # Long runs have the machine for themselves.
        at_once = 2 if num_cores() > 1 and chosen.name != "full" else 1
        copies = runs / "notebooks" / chosen.name
        places = f"figures in {figures_folder(chosen.name)}, runs in {runs}"
        expected = [chosen.minutes.get(name[:2], 0) for name in known]
        minutes = max(sum(expected) / at_once, *expected, 1)
        time_ = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} hours"
        summaries = {
            "jobs": str(at_once),
            "plan": f"Runs {len(known)} notebooks at the {chosen.name} profile: about {time_}, "
                    f"less when runs are there already; {places}.",
            "end": f"All done: {places}, executed notebooks in {copies}.",
        }  # fmt: skip
        if what in summaries:
            _say(summaries[what])
            return 0
        if what not in known:
            raise ValueError(f"no notebook is called {what!r}; there are {', '.join(known)}")
    except (ValueError, OSError) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    try:
        run_notebook(known[what], copies, threads=max(1, num_cores() // at_once))
    except NotebookError as error:
        print(f"reproduce: {error}\nExecuted so far: {copies}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nreproduce: {what} stopped; the same command resumes it",
              file=sys.stderr)  # fmt: skip
        return 130
    return 0


class _Stopped(Exception):
    """No further cell is begun."""


def _minutes_since(start: float) -> str:
    return f"{(time.monotonic() - start) / 60:.1f} min"


def _say(line: str) -> None:
    print(f"{line}\n", end="", flush=True)  # whole, though several threads speak


if __name__ == "__main__":
    sys.exit(main())
