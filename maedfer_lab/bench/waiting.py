"""Section "waiting": imports, a notebook's first cell, viewers, checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch

from maedfer_lab.bench.report import Findings, Row
from maedfer_lab.bench.settings import NUM_CLASSES, Settings
from maedfer_lab.bench.timing import Timing, Work, pick
from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.checkpoints.saving import write_folder
from maedfer_lab.config import demo, tiny
from maedfer_lab.method.models import build_autoencoder, build_classifier
from maedfer_lab.training.stream import example_clips

BEYOND_TORCH = {
    "import maedfer_lab": "import maedfer_lab",
    "import models and training": "from maedfer_lab import build_classifier, finetune, pretrain",
    "import viewers": "from maedfer_lab import AttentionViewer, ReconstructionViewer",
}
FIRST_CELL = "import maedfer_lab\nmaedfer_lab.ModelConfig()"
START_S = 120.0  # after which a kernel is given up


def steps(settings: Settings) -> Iterator[tuple[str, Callable[[Findings], None]]]:
    """The pieces of this section: what is measured, and the function that adds its rows."""
    yield "imports", lambda found: imports(settings, found)
    yield "a notebook's first cell", lambda found: notebook(settings, found)
    yield "viewers", lambda found: viewers(settings, found)
    yield "checkpoints", lambda found: checkpoints(settings, found)


def imports(settings: Settings, found: Findings) -> None:
    """Seconds of imports in fresh processes, of ours beyond torch's."""
    if settings.smoke:
        codes = {"import maedfer_lab": ("pass", "import maedfer_lab")}
    else:
        codes = {"import torch": ("pass", "import torch")}
        codes |= {name: ("import torch", code) for name, code in BEYOND_TORCH.items()}
        for before, code in codes.values():
            _fresh(before, code)  # files come from memory from now on
    rounds = [
        {name: _fresh(*pair) for name, pair in codes.items()}
        for _ in range(1 if settings.smoke else 5)
    ]
    for name in codes:
        taken = Timing(tuple(seconds[name] for seconds in rounds))
        found.rows.append(Row("waiting", name, taken, item=""))
    found.notes.append("waiting: imports of ours are counted beyond torch's, in fresh processes")


def _fresh(before: str, code: str) -> float:
    """Seconds of `code` in a new process, after `before`."""
    text = f"import time\n{before}\nstart = time.perf_counter()\n{code}\n"
    text += "print(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def notebook(settings: Settings, found: Findings) -> None:
    """From the start of a kernel to the end of its first cell; beside a bare Python's start."""
    try:
        from jupyter_client.manager import KernelManager
    except ImportError:
        found.notes.append("waiting: no notebook was started, jupyter_client is not installed")
        return

    def first_cell() -> None:
        manager = KernelManager()
        quiet = subprocess.DEVNULL
        manager.start_kernel(stdout=quiet, stderr=quiet)
        client = manager.blocking_client()
        try:
            client.start_channels()
            client.wait_for_ready(timeout=START_S)
            client.execute_interactive(FIRST_CELL, timeout=START_S, output_hook=lambda _: None)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)

    taken = settings.watch.alternate(
        {"ours": first_cell, "floor": lambda: _fresh("pass", "pass")}, warm_up=not settings.smoke
    )
    found.rows.append(Row("waiting", "notebook: kernel and first cell", **pick(taken), item=""))
    found.notes.append("waiting: the floor of a notebook's first cell is to start a bare Python")


def viewers(settings: Settings, found: Findings) -> None:
    """What the viewers of notebooks 05 and 06 take to open and to answer, without the browser."""
    try:
        from maedfer_lab.viewers import AttentionViewer, ReconstructionViewer
    except ImportError:
        found.notes.append("waiting: no viewer was opened, anywidget is not installed")
        return
    config = (tiny if settings.smoke else demo)()
    model = build_autoencoder(config.model, config.target).eval()
    clips = example_clips(2, config.model)
    shown, looked = ReconstructionViewer(model, clips), AttentionViewer(model, clips)
    seeds, layers = count(1), count(1)
    works: dict[str, Work] = {
        "ReconstructionViewer: open": lambda: ReconstructionViewer(model, clips),
        "ReconstructionViewer: another mask": lambda: shown.set(seed=next(seeds)),
        "AttentionViewer: open": lambda: AttentionViewer(model, clips),
        "AttentionViewer: another layer": lambda: looked.set(
            layer=next(layers) % config.model.depth
        ),
    }
    watch = replace(settings.watch, most=3 * settings.watch.most)
    for name, taken in watch.alternate(works).items():
        found.rows.append(Row("waiting", name, taken, item=""))


def checkpoints(settings: Settings, found: Findings) -> None:
    """A classifier to disk and back; beside its bytes alone, and torch.save and torch.load."""
    config = settings.model("lgi")
    model = build_classifier(config, NUM_CLASSES)
    folder, file, raw = (settings.folder / name for name in ("weights", "plain.pt", "raw"))
    folder.mkdir(exist_ok=True)
    num_bytes = sum(4 * parameter.numel() for parameter in model.parameters())
    content = bytes(num_bytes)

    def load_plain() -> None:
        build_classifier(config, NUM_CLASSES).load_state_dict(torch.load(file))

    saves = {
        "ours": lambda: write_folder(model, folder),
        "floor": lambda: _write(raw, content),
        "plain": lambda: torch.save(model.state_dict(), file),
    }
    loads = {"ours": lambda: load_checkpoint(folder), "floor": raw.read_bytes, "plain": load_plain}
    for name, works in (("save", saves), ("load", loads)):
        taken = settings.watch.alternate(works)
        found.rows.append(Row("waiting", f"checkpoint of LGI-B: {name}", **pick(taken), item=""))
    found.notes.append(
        f"waiting: a checkpoint is {num_bytes / 1e6:,.0f} MB; its floor is to write (until they "
        "are on the disk) or to read so many bytes"
    )


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
