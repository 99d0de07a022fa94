"""Run the numbered notebooks top to bottom, with progress, leaving their files untouched.

`python -m maedfer_lab.evidence.notebooks` is what `make reproduce` calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from maedfer_lab.config import output_folder, profile, project_folder
from maedfer_lab.evidence.results import figures_folder

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
    paths: Sequence[Path], timeout_s: int | None, save_to: Path, report_every_s: float = 30
) -> None:
    """Run each notebook in a fresh kernel of this interpreter, in its own folder, in order.

    timeout_s: limit of one cell; None sets none.
    save_to: folder of the executed copies (with outputs), also of one that failed.
    report_every_s: pause between two lines of progress within a notebook.

    Raises NotebookError at the first failing cell, KeyboardInterrupt when interrupted; the kernel
    is interrupted first, so that a training in it can keep its state.
    """
    save_to.mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(paths, start=1):
        start = time.monotonic()
        _say(f"[{index}/{len(paths)}] {path.stem}")
        asyncio.run(_run(path, timeout_s, save_to / path.name, report_every_s))
        _say(f"      done in {_minutes_since(start)}")


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
    minutes = sum(chosen.minutes.get(path.name[:2], 0) for path in paths)
    runs = output_folder() / "runs"
    places = f"figures in {figures_folder(chosen.name)}, runs in {runs}"
    _say(
        f"Runs {len(paths)} notebooks at the {chosen.name} profile: about {_duration(minutes)}, "
        f"less when runs are there already; {places}."
    )
    copies = runs / "notebooks" / chosen.name
    start = time.monotonic()
    try:
        run_notebooks(paths, timeout_s=None, save_to=copies)
    except NotebookError as error:
        print(f"reproduce: {error}\nAs far as it ran: {copies}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nreproduce: stopped; the same command goes on from what is kept", file=sys.stderr)
        return 130
    _say(f"All done in {_minutes_since(start)}: {places}, executed notebooks in {copies}.")
    return 0


async def _run(path: Path, timeout_s: int | None, copy: Path, report_every_s: float) -> None:
    notebook = nbformat.read(path, as_version=4)
    # An empty list of kernel folders leaves the one kernel that runs sys.executable: a kernel
    # registered elsewhere as "python3" cannot take its place.
    kernel = AsyncKernelManager(
        kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[])
    )
    interrupts: list[asyncio.Future[None]] = []

    def interrupt() -> None:
        interrupts.append(asyncio.ensure_future(kernel.interrupt_kernel()))

    def handle_interrupt(**_: object) -> None:
        # After the kernel's start, since nbclient sets a handler of its own that kills the kernel.
        with contextlib.suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)

    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=timeout_s,
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=ERROR"],
        on_notebook_start=handle_interrupt,
    )
    reporter = asyncio.create_task(_report(notebook, report_every_s))
    try:
        await client.async_execute(cleanup_kc=True)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        if not interrupts:
            text = _ANSI_COLOUR.sub("", str(error))
            raise NotebookError(f"{path.name} failed.\n{text}") from None
    finally:
        reporter.cancel()
        nbformat.write(notebook, copy)
    if interrupts:
        raise KeyboardInterrupt


async def _report(notebook: nbformat.NotebookNode, every_s: float) -> None:
    """Say from time to time which cell runs, and the last line that it printed."""
    start = time.monotonic()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    while True:
        await asyncio.sleep(every_s)
        begun = [cell for cell in code if "execution" in cell.metadata]
        printed = "".join(
            out.text for cell in begun[-1:] for out in cell.outputs if out.output_type == "stream"
        )
        last_line = (printed.rstrip().splitlines() or [""])[-1][-100:]
        _say(
            f"      cell {len(begun)} of {len(code)}, {_minutes_since(start)}  {last_line}".rstrip()
        )


def _minutes_since(start: float) -> str:
    return f"{(time.monotonic() - start) / 60:.1f} min"


def _duration(minutes: float) -> str:
    return f"{max(1, round(minutes))} min" if minutes < 120 else f"{minutes / 60:.0f} hours"


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
