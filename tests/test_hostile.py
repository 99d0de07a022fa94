"""No damaged file ends in a traceback, a hang, a gulp of memory or a silently other result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SEED, HANGS = 19, (-signal.SIGALRM, -signal.SIGPROF)


def faults(seed: int, first: int, last: int, folder: Path) -> list[str]:
    """Have the inputs read by a process, begun anew after one at which it hangs or dies."""
    found, at = [], first
    program = str(Path(__file__).with_name("hostile.py"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MAEDFER_OUTPUT": str(folder)}
    while at < last:
        command = [sys.executable, program, *map(str, (seed, at, last))]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        found += [line for line in lines if "fault" in json.loads(line)]
        if done.returncode == 0:
            return found
        assert lines, f"it did not even start: {done.stderr[-800:]}"
        why = "hangs" if done.returncode in HANGS else f"dies ({done.returncode})"
        found.append(f"{lines[-1]}: {why}: {done.stderr[-800:]}")
        at = json.loads(lines[-1])["number"] + 1
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize(
    ("first", "last"),
    [(0, 2_000), pytest.param(2_000, 102_000, marks=pytest.mark.hostile)],
)
def test_damaged_files_are_refused_by_name_or_read_as_before(first, last, tmp_path):
    found = faults(SEED, first, last, tmp_path)
    assert not found, f"{len(found)} faults:\n" + "\n".join(found[:20])
