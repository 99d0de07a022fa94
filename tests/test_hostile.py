"""No damaged file ends in a traceback, a hang, a gulp of memory or a silently other result."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import pytest

SEED, CPU_S, WALL_S, START_S = 19, 10, 60, 180  # CPU_S, WALL_S: what one input may take


def cpu_seconds(process: subprocess.Popen) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def forward(file: IO[str], lines: queue.Queue[str]) -> None:
    for line in file:
        lines.put(line)
    lines.put("")


def faults(seed: int, first: int, last: int, folder: Path) -> list[str]:
    """Have the inputs read by a process that is watched, and begun anew when it hangs or dies."""
    found, at = [], first
    program = str(Path(__file__).with_name("hostile.py"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MAEDFER_OUTPUT": str(folder)}
    while at < last:
        with (folder / "errors.txt").open("w") as errors:
            child = subprocess.Popen(
                [sys.executable, program, *map(str, (seed, at, last))],
                stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
            )  # fmt: skip
        lines: queue.Queue[str] = queue.Queue()
        assert child.stdout is not None
        threading.Thread(target=forward, args=(child.stdout, lines), daemon=True).start()
        now, since, used = {"number": at - 1, "file": "start"}, time.monotonic(), 0.0
        while True:
            try:
                line = lines.get(timeout=1)
            except queue.Empty:
                started = now["number"] >= at
                late = time.monotonic() - since > (WALL_S if started else START_S)
                if child.poll() is None and (
                    late or (started and cpu_seconds(child) - used > CPU_S)
                ):
                    child.kill()
                    child.wait()
                    found.append(f"{now}: hangs")
                    break
                continue
            if not line.startswith("{"):
                if line in ("", "end\n"):
                    child.wait()
                    if child.returncode:
                        said = (folder / "errors.txt").read_text()[-800:]
                        found.append(f"{now}: ended with {child.returncode}: {said}")
                    else:
                        now["number"] = last
                    break
                continue
            now = json.loads(line)
            if "fault" in now:
                found.append(line)
            since, used = time.monotonic(), cpu_seconds(child) if child.poll() is None else 0.0
        if now["number"] < at:
            raise RuntimeError("\n".join(found))  # it did not even start
        at = now["number"] + 1
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="watches /proc")
@pytest.mark.parametrize(
    ("first", "last"),
    [(0, 2_000), pytest.param(2_000, 102_000, marks=pytest.mark.hostile)],
)
def test_damaged_files_are_refused_by_name_or_read_as_before(first, last, tmp_path):
    found = faults(SEED, first, last, tmp_path)
    assert not found, f"{len(found)} faults:\n" + "\n".join(found[:20])
