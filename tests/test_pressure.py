"""Little memory, few open files, killed processes: an answer, never a hang; one writer a folder."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from maedfer_lab.data import prepare as module
from maedfer_lab.data.prepare import Job, encode_in_order
from maedfer_lab.runs import Run
from maedfer_lab.training.loop import delayed_interrupt
from maedfer_lab.training.stream import read_batches

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits and locks of Unix")


class Full(torch.Tensor):
    """A tensor that cannot leave its process, as with too many open files or no /dev/shm."""

    def __reduce_ex__(self, _: Any) -> Any:
        raise OSError(24, "Too many open files")


class Fulls(Dataset):
    def __getitem__(self, index: int) -> Any:
        return Full()


def test_a_batch_that_cannot_be_handed_over_is_told(monkeypatch):
    """Multiprocessing drops it: the training waited for it for ever."""
    began = time.monotonic()
    with pytest.raises(ChildProcessError, match=r"could not hand them over: Too many open files"):
        list(read_batches(Fulls(), [[0], [1]], 1, str, collate=list))
    assert time.monotonic() - began < 60


def die_at_once(job: Job) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def test_processes_that_die_whatever_they_read_end_prepare(monkeypatch, tmp_path):
    """Each clip was once tried twice, five seconds each: for ever, in a large set."""
    monkeypatch.setattr(module, "encode", die_at_once)
    jobs = [Job(tmp_path / f"{i}.mp4", "whole", 32, 95) for i in range(100)]
    with encode_in_order(jobs, 1) as results, pytest.raises(ChildProcessError, match="workers=0"):
        list(results)


def test_a_second_process_is_told_who_trains_in_the_folder(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from maedfer_lab.runs import Run\n"
        "with Run(Path(sys.argv[1])).locked():\n    print('held', flush=True); time.sleep(600)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError, match=f"process {child.pid} on .* is training in"):
        with Run(tmp_path).locked():
            pass
    child.kill()
    child.communicate()
    assert (tmp_path / ".lock").exists()  # a dead process holds nothing
    with Run(tmp_path).locked():
        pass
    assert not list(tmp_path.iterdir())


def test_a_closed_terminal_stops_a_training_as_sigterm_does():
    with delayed_interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.01)
        assert interrupt.is_set()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_states_that_a_kill_left_beside_a_result_are_swept(tmp_path):
    run = Run(tmp_path)
    run.finish(torch.nn.Linear(2, 2), {"steps": 1})
    for name in ("checkpoint.pt", "checkpoint-before.pt"):
        (tmp_path / name).write_bytes(b"old")
    run.load_result()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "result.json"]
