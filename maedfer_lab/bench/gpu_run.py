"""`python -m maedfer_lab.bench.gpu_run OUT`: checks and measures a GPU in 8 minutes.

`gpu_check`, `maedfer bench` and a minute of the paper's pre-training, each in a process of its own.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import tyro

from maedfer_lab.bench.gpu import draw_shards, reading_workers
from maedfer_lab.data.prepare import Store

ALL_S, CHECK_S = 460, 150  # at most
START_S, STOP_S = 60, 60  # of the training, until steps follow each other, and to keep its state
BAR = re.compile(r"clips/s=[\d.e+]+.*?waiting=\d+%")


def gpu_run(
    out: tyro.conf.Positional[Path],
    *,
    device: str | None = None,
    seconds: float = 60.0,
    workers: int | None = None,
    store: Store = "raw",
    smoke: bool = False,
) -> tuple[str, int]:
    """Check, measure and train on a device: (the result of each part, 1 if one failed).

    out: folder for the results.
    device: of the check and the bench, e.g. cuda or cpu; by default the GPU if there is one.
    seconds: of pre-training.
    workers: processes that read clips; by default all cores but two.
    store: of the shards that are trained from; the bench feeds from both kinds.
    smoke: tiny models, and ten times the time; measurements are then meaningless.
    """
    out.mkdir(parents=True, exist_ok=True)
    more = (["--device", device] if device else []) + ["--smoke"] * smoke
    slow, began = 10 if smoke else 1, time.monotonic()
    training_s = (START_S + seconds) * slow
    with tempfile.TemporaryDirectory(prefix="maedfer-gpu-") as folder:
        shards = draw_shards(Path(folder), 4 if smoke else 12, store)
        check = ["maedfer_lab.bench.gpu_check", *more]
        bench = ["maedfer_lab", "bench", "--only", "gpu", "--json", f"{out}/bench_gpu.json", *more]
        train = ["maedfer_lab", "pretrain", "--preset", "base", "--data", f"{shards}", "--workers",
                 f"{workers or reading_workers()}", "--out", f"{folder}/run"]  # fmt: skip
        if smoke:
            train += ["--model.depth", "1", "--model.width", "48", "--model.decoder-depth", "1",
                      "--model.decoder-width", "48", "--batch-size", "4"]  # fmt: skip
        lines = [_run(out / "gpu_check.txt", check, CHECK_S * slow, signal.SIGKILL)]
        left = ALL_S * slow - training_s - (time.monotonic() - began)
        lines.append(_run(out / "bench.txt", bench, left, signal.SIGINT))  # reports what it has
        lines.append(_run(out / "pretrain.txt", train, training_s, signal.SIGTERM, 130))
    shown = BAR.findall((out / "pretrain.txt").read_text(errors="replace"))
    lines.append(f"the loop, from {store} shards: {shown[-1] if shown else 'NO step was told'}")
    return "\n".join(lines), int(any("NO" in line for line in lines))


def _run(log: Path, arguments: list[str], most_s: float, stop: int, wanted: int = 0) -> str:
    """Run a module for at most `most_s` seconds, its output in `log`. wanted: its exit status."""
    began = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=file, stderr=file)
        for seconds, number in ((most_s, stop), (STOP_S, signal.SIGKILL)):
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
                break
            process.send_signal(number)
        status = process.wait()
    outcome = "ended" if status == wanted else f"NO end, status {status}"
    outcome += ", NOT all of it" * ("FAILED" in log.read_text(errors="replace"))
    return f"{log.stem}: {outcome}, {time.monotonic() - began:.0f} s"


if __name__ == "__main__":
    text, status = tyro.cli(gpu_run)
    print(text)
    sys.exit(status)
