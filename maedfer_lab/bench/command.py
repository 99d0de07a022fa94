"""`maedfer bench`: all sections, one after the other, with a progress bar."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

from maedfer_lab.bench import data, evaluation, model, waiting
from maedfer_lab.bench.aims import judge
from maedfer_lab.bench.report import SECTIONS, BenchReport, Findings
from maedfer_lab.bench.settings import Settings
from maedfer_lab.bench.timing import Stopwatch
from maedfer_lab.figures import show
from maedfer_lab.figures.style import save_figure
from maedfer_lab.files import check_writable, provenance, write_aside
from maedfer_lab.training.optim import device_name

Section = Literal["model", "data", "evaluation", "waiting"]
STEPS = {"model": model.steps, "data": data.steps, "evaluation": evaluation.steps,
         "waiting": waiting.steps}  # fmt: skip


def bench_command(
    *,
    json: Path | None = None,
    only: tuple[Section, ...] = SECTIONS,
    threads: int | None = None,
    batch: int | None = None,
    device: str | None = None,
    seed: int = 0,
    smoke: bool = False,
    profile: bool = False,
) -> BenchReport:
    """Measure models, data, evaluation and waits beside a floor and beside plain code.

    On two CPU cores about 9 minutes. Nothing else should run meanwhile.

    json: file for all numbers; its figure is written beside it, as PNG.
    only: model, data, evaluation, waiting, or several of them; all by default.
    threads: of PyTorch; by default as many as cores may be used.
    batch: clips of a pass, twice as many in pre-training; by default 1 on a CPU, 16 on a GPU.
    device: such as cpu or cuda; by default the GPU if there is one.
    seed: of weights, clips and draws.
    smoke: tiny models and few clips in seconds; the times then say nothing.
    profile: add where the time of a forward pass goes, operator by operator.
    """
    return bench(only, json=json, threads=threads, batch=batch, device=device, seed=seed,
                 smoke=smoke, profile=profile)  # fmt: skip


def bench(
    only: Sequence[Section] = SECTIONS,
    *,
    json: Path | None = None,
    threads: int | None = None,
    batch: int | None = None,
    device: str | None = None,
    seed: int = 0,
    smoke: bool = False,
    profile: bool = False,
) -> BenchReport:
    """Run sections of the benchmark; arguments as `bench_command` says.

    Raises:
        ValueError: an output of ours differs from the plain way's, so that nothing was timed; or
            an argument is out of range.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = cores or 1 if threads is None else threads
    for name, value in (("threads", threads), ("batch", 1 if batch is None else batch)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if not only or set(only) - set(SECTIONS):
        raise ValueError(f"only={tuple(only)} must be some of {', '.join(SECTIONS)}")
    if json is not None:
        check_writable(json)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    watch = Stopwatch(place, seconds=0, least=1) if smoke else Stopwatch(place)
    before, found, start = torch.get_num_threads(), Findings(), time.perf_counter()
    torch.set_num_threads(threads)
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32, also in a GPU's convolutions
    try:
        with tempfile.TemporaryDirectory(prefix="maedfer-bench-") as folder:
            settings = Settings(watch, Path(folder), seed, smoke, batch)
            _run(settings, only, found)
            if profile:
                found.notes.append(f"one LGI-B forward pass\n{model.profile_text(settings)}")
            source = provenance(
                profile="smoke" if smoke else "bench",
                seed=seed,
                device=device_name(place),
                data="drawn faces",
                machine=_machine(),
                threads=threads,
                seconds=round(time.perf_counter() - start, 1),
            )
    finally:
        torch.set_num_threads(before)
        torch.backends.cudnn.allow_tf32 = tf32
    aims = [] if smoke else judge(found)
    report = BenchReport(found.rows, found.checks, aims, found.notes, source)
    return report if json is None else _write(report, json)


def _run(settings: Settings, only: Sequence[Section], found: Findings) -> None:
    pieces = [piece for section in SECTIONS if section in only
              for piece in STEPS[section](settings)]  # fmt: skip
    with tqdm(pieces, "bench", unit="piece") as bar:
        for name, measure in bar:
            bar.set_postfix_str(name)
            measure(found)


def _machine() -> str:
    """The processor's name and how many cores may be used."""
    name = platform.processor() or platform.machine()
    told = Path("/proc/cpuinfo")
    if told.is_file():
        lines = (line.partition(":") for line in told.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if "model name" in key), name)
    return f"{name}, {os.cpu_count()} cores"


def _write(report: BenchReport, path: Path) -> BenchReport:
    content: dict[str, Any] = report.as_data()
    write_aside(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    picture = save_figure(show("bench", content), path.with_suffix(".png"))
    return BenchReport(report.rows, report.checks, report.aims, report.notes, report.provenance,
                       (str(path), str(picture)))  # fmt: skip
