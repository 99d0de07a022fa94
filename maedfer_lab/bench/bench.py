"""`maedfer bench`: runs its sections; imports, viewers and checkpoints are here."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from json import dumps
from pathlib import Path

import torch
from tqdm.auto import tqdm

from maedfer_lab.bench import clips, gpu, model
from maedfer_lab.bench.measuring import (
    NUM_CLASSES,
    SECTIONS,
    Bench,
    BenchReport,
    Section,
    Work,
    Works,
    aims_of,
)
from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.checkpoints.saving import save_pretrained
from maedfer_lab.config import check_counts, demo, num_cores, tiny
from maedfer_lab.cost.memory import cpu_threads
from maedfer_lab.data.transforms import keep_freed_memory
from maedfer_lab.figures import show
from maedfer_lab.figures.style import save_figure
from maedfer_lab.files import check_writable, provenance, write_aside
from maedfer_lab.method.models import build_autoencoder, build_classifier
from maedfer_lab.training.optim import device_name
from maedfer_lab.training.stream import example_clips


def imports(bench: Bench) -> None:
    """Seconds of our imports in fresh processes, beyond torch's."""
    codes = {"import maedfer_lab": ("pass", "import maedfer_lab")}
    if not bench.smoke:
        models = "from maedfer_lab import build_classifier, finetune, pretrain"
        shown = "from maedfer_lab import AttentionViewer, ReconstructionViewer"
        codes = {"import torch": ("pass", "import torch"),
                 "import maedfer_lab": ("import torch", "import maedfer_lab"),
                 "import models and training": ("import torch", models),
                 "import viewers": ("import torch", shown)}  # fmt: skip
    # The first round reads from disk, the others from the cache.
    rounds = [{name: fresh_process(*pair) for name, pair in codes.items()}
              for _ in range(1 if bench.smoke else 6)][-5:]  # fmt: skip
    for name in codes:
        bench.add("waiting", name, {"ours": [taken[name] for taken in rounds]}, "")
    bench.notes.append("waiting: imports of ours are counted beyond torch's, in fresh processes")


def fresh_process(before: str, code: str) -> float:
    """Seconds of `code` in a new process, after `before`."""
    script = f"import time\n{before}\nstart = time.perf_counter()\n{code}\n"
    script += "print(time.perf_counter() - start)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def first_cell(bench: Bench) -> None:
    """From the start of a kernel to the end of its first cell, and a bare Python's start."""
    try:
        from jupyter_client.manager import start_new_kernel
    except ImportError:
        bench.notes.append("waiting: no notebook was started, jupyter_client is not installed")
        return
    code, quiet = "import maedfer_lab\nmaedfer_lab.ModelConfig()", subprocess.DEVNULL

    def run() -> None:
        manager, client = start_new_kernel(120, stdout=quiet, stderr=quiet)
        try:
            client.execute_interactive(code, timeout=120, output_hook=lambda _: None)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)

    works = {"notebook: kernel and first cell": Works(run, lambda: fresh_process("pass", "pass"))}
    bench.measure("waiting", works, item="", warm_up=not bench.smoke)
    bench.notes.append("waiting: the floor of a notebook's first cell is to start a bare Python")


def viewers(bench: Bench) -> None:
    """Time of the viewers of notebooks 05 and 06 to open and to respond, without the browser."""
    try:
        from maedfer_lab.viewers import AttentionViewer, ReconstructionViewer
    except ImportError:
        bench.notes.append("waiting: no viewer was opened, anywidget is not installed")
        return
    config = (tiny if bench.smoke else demo)()
    model = build_autoencoder(config.model, config.target).eval()
    clips, seeds, layers = example_clips(2, config.model), count(1), count(1)
    shown, looked = ReconstructionViewer(model, clips), AttentionViewer(model, clips)
    works: dict[str, Work] = {
        "ReconstructionViewer: open": lambda: ReconstructionViewer(model, clips),
        "ReconstructionViewer: another mask": lambda: shown.set(seed=next(seeds)),
        "AttentionViewer: open": lambda: AttentionViewer(model, clips),
        "AttentionViewer: another layer": lambda: looked.set(
            layer=next(layers) % config.model.depth
        ),
    }
    rows = {name: Works(work) for name, work in works.items()}
    bench.measure("waiting", rows, item="", most=27)


def checkpoints(bench: Bench) -> None:
    """A classifier to disk and back, its bytes alone, and torch.save and torch.load."""
    config = bench.model()
    model = build_classifier(config, NUM_CLASSES)
    folder, file, raw = (bench.folder / name for name in ("weights", "plain.pt", "raw"))
    folder.mkdir(exist_ok=True)
    content = bytes(sum(4 * parameter.numel() for parameter in model.parameters()))

    def write_raw() -> None:
        with raw.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())

    def load_plain() -> None:
        build_classifier(config, NUM_CLASSES).load_state_dict(torch.load(file))

    save = Works(lambda: save_pretrained(model, folder), write_raw,
                 lambda: torch.save(model.state_dict(), file))  # fmt: skip
    load = Works(lambda: load_checkpoint(folder), raw.read_bytes, load_plain)
    for name, works in {"save": save, "load": load}.items():
        bench.measure("waiting", {f"checkpoint of LGI-B: {name}": works}, item="")
    bench.notes.append(
        f"waiting: a checkpoint is {len(content) / 1e6:,.0f} MB; its floor is to write (until they "
        "are on the disk) or to read so many bytes"
    )


PIECES: dict[Section, Sequence[Callable[[Bench], None]]] = {
    "model": model.PIECES, "data": (clips.check_decoding, clips.training_clips),
    "evaluation": (clips.whole_test, clips.test_data),
    "waiting": (imports, first_cell, viewers, checkpoints), "gpu": (gpu.steps_and_feed,),
}  # fmt: skip


def bench_command(
    *, json: Path | None = None, only: tuple[Section, ...] = (), threads: int | None = None,
    batch: int | None = None, device: str | None = None, seed: int = 0, smoke: bool = False,
) -> BenchReport:  # fmt: skip
    """Measure models, data, evaluation and waiting times against a floor and plain code.

    On two CPU cores about 9 minutes, on a GPU 3. Nothing else should run meanwhile. Raises
    ValueError if an output differs from the plain version's (then nothing is timed), or an
    argument is out of range.

    json: file for all numbers; its figure is written next to it, as PNG.
    only: sections to run; by default gpu on a GPU, all others on a CPU.
    threads: PyTorch threads; by default one for each usable core.
    batch: clips per forward pass (twice as many in pre-training); by default 1 on a CPU, 16 on a
        GPU; section gpu has its own.
    device: e.g. cpu or cuda; by default the GPU if there is one.
    seed: random seed of weights, clips and augmentation.
    smoke: tiny models and few clips, in seconds; the times are then meaningless.
    """
    threads = num_cores() if threads is None else threads
    check_counts(threads=threads, batch=1 if batch is None else batch)
    if set(only) - set(SECTIONS):
        raise ValueError(f"only={tuple(only)} must be some of {', '.join(SECTIONS)}")
    if json is not None:
        check_writable(json)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    only = only or (("gpu",) if place.type == "cuda" else SECTIONS[:-1])
    start, folders = time.monotonic(), tempfile.TemporaryDirectory(prefix="maedfer-bench-")
    # float32 is float32, also in a GPU's convolutions.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with cpu_threads(threads), exact, folders as folder:
        bench = Bench(place, Path(folder), seed, smoke, batch)
        pieces = [piece for name in SECTIONS if name in only for piece in PIECES[name]]
        keep_freed_memory()  # as trainings and `evaluate` do; also for floor and plain
        for piece in tqdm(pieces, "bench", unit="piece"):
            piece(bench)
        source = provenance(
            profile="smoke" if smoke else "bench", seed=seed, device=device_name(place),
            data="drawn faces", machine=_machine(), threads=threads,
            seconds=round(time.monotonic() - start, 1),
        )  # fmt: skip
    aims = [] if smoke else aims_of(bench.rows)
    report = BenchReport(bench.rows, bench.checks, aims, bench.notes, source)
    if json is None:
        return report
    content = report.as_data()
    write_aside(json, (dumps(content, indent=1, allow_nan=False) + "\n").encode())
    picture = save_figure(show("bench", content), json.with_suffix(".png"))
    return replace(report, files=(str(json), str(picture)))


def _machine() -> str:
    """The processor's name and how many cores may be used."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if "model name" in key), name)
    return f"{name}, {os.cpu_count()} cores"
