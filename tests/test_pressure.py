"""Little memory, few open files, killed processes: an answer, never a hang; one writer a folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

import maedfer_lab
from maedfer_lab import runs
from maedfer_lab.cli import main
from maedfer_lab.config import tiny
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
    with pytest.raises(ChildProcessError, match=r"could not hand them over: Too many open files"):
        list(read_batches(Fulls(), [[0], [1]], 1, str, collate=list))


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


def test_two_processes_never_hold_one_folder(tmp_path, monkeypatch):
    """The one before removed the file between another's opening and locking it."""
    flock, lock = runs.fcntl.flock, tmp_path / ".lock"
    monkeypatch.setattr(runs.fcntl, "flock", lambda *how: (lock.unlink(), flock(*how)))
    with pytest.raises(BlockingIOError, match="start again"), Run(tmp_path).locked():
        pass


def test_a_checkout_that_is_not_installed_trains_to_its_end(tmp_path, monkeypatch, capsys):
    def version(name):
        raise PackageNotFoundError(name)

    for place in ("importlib.metadata", "maedfer_lab"):
        monkeypatch.setattr(f"{place}.version", version)
    few = ["--steps", "1", "--num_clips", "8", "--out", str(tmp_path)]
    assert main(["pretrain", "--preset", "tiny", *few]) == 0
    assert json.loads(next(tmp_path.rglob("result.json")).read_text())["steps"] == 1
    assert main(["--version"]) == 0 and maedfer_lab.__version__ == "not installed"


def test_a_config_of_other_settings_than_its_folders_is_refused(tmp_path):
    run = Run.of(tiny(), tmp_path)
    config = run.folder / "config.json"
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 8'))
    with pytest.raises(ValueError, match=r"config\.json is damaged or was changed"):
        Run.of(tiny(), tmp_path)


@pytest.mark.parametrize(
    "flags",
    ["--steps 99999999999", "--batch-size 2147483648", "--seed -1", "--workers -1",
     "--workers 9999", "--num_clips 2147483648", "--optim.lr nan", "--optim.min_lr inf",
     "--optim.weight_decay -1", "--min_crop 1e308", "--held_out nan", "--jitter inf",
     "--target.motion_scale inf", "--model.depth 100000000", "--model.mlp_ratio 1e308"],
)  # fmt: skip
def test_numbers_out_of_reason_are_refused_in_a_sentence(flags, tmp_path, capsys):
    start = ["pretrain", "--preset", "tiny", "--steps", "2", "--out", str(tmp_path)]
    try:
        status = main([*start, *flags.split()])
    except SystemExit as error:  # tyro's, of fields
        status = error.code
    assert status == 2
    said, name = capsys.readouterr(), flags.split()[0].rpartition(".")[2].strip("-")
    assert name.replace("-", "_") in said.err + said.out and "Traceback" not in said.err


def test_a_closed_terminal_stops_a_training_as_sigterm_does():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and stays so
    with delayed_interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.01)
        assert interrupt.is_set()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def killed_py(folder: Path, *args: object, before: tuple[str, ...] = ()) -> str:
    """What killed.py says."""
    program = str(Path(__file__).with_name("killed.py"))
    done = subprocess.run(
        [*before, sys.executable, program, str(folder), *map(str, args)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def starved(folder: Path, *cases: str, before: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """How each verb ended under each limit; always in an answer."""
    lines = killed_py(folder, *cases, before=before).splitlines()
    answers = [json.loads(line) for line in lines if line.startswith('{"verb"')]
    for one in answers:
        assert one["status"] in (0, 2), one
        assert not one["status"] or f"maedfer {one['verb']}: " in one["said"], one
    return answers


forks = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks after torch came")


@forks
@pytest.mark.parametrize(
    ("first", "last"), [(0, 20), pytest.param(20, 520, marks=pytest.mark.hostile)]
)
def test_whatever_is_killed_at_any_moment_ends_with_the_same_bytes(first, last, tmp_path):
    out = killed_py(tmp_path, first, last)
    assert out.startswith(f"{last - first} cases"), out[:4000]


@forks
def test_little_memory_few_files_and_killed_workers_end_in_an_answer(tmp_path):
    answers = starved(tmp_path, "files-1", "memory-0", "memory-1", "killed-1", "killed-3")
    assert len(answers) == 15
    for one in answers:
        assert not one["skipped"] and "cannot write" not in one["said"], one  # all could be read
        if one["case"].startswith("memory"):  # C libraries crash where they cannot allocate
            assert one["status"] == 2 and "ulimit -v unlimited" in one["said"], one


@forks
def test_without_room_in_dev_shm_there_is_an_answer(tmp_path):
    mount = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    before = ("unshare", "-m", "sh", "-c", mount, "sh")
    if not shutil.which("unshare") or subprocess.run([*before, "true"]).returncode:
        pytest.skip("no right to mount")
    assert starved(tmp_path, "plain-1", before=before)
