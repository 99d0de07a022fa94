"""Little memory, few open files, killed processes, damaged files: an answer, never a hang."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from making_videos import moving_frames, write_video
from torch.utils.data import Dataset

import maedfer_lab
from maedfer_lab import runs
from maedfer_lab.cli import main
from maedfer_lab.config import FinetuneConfig, OptimConfig, tiny
from maedfer_lab.data import prepare as module
from maedfer_lab.data.prepare import Job, encode_in_order
from maedfer_lab.data.readers import open_video
from maedfer_lab.runs import Run
from maedfer_lab.training.finetune import finetune
from maedfer_lab.training.stream import read_batches

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits and locks of Unix")


class Full(torch.Tensor):
    """A tensor that cannot leave its process, as with too many open files or no /dev/shm."""

    def __reduce_ex__(self, _: Any) -> Any:
        raise OSError(24, "Too many open files")


def die_at_once(job: Job) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def test_processes_that_die_whatever_they_read_end_prepare(monkeypatch, tmp_path):
    """Each clip was once tried twice, five seconds each: for ever, in a large set."""
    monkeypatch.setattr(module, "encode", die_at_once)
    jobs = [Job(tmp_path / f"{i}.mp4", "whole", 32, 95) for i in range(100)]
    with (
        closing(encode_in_order(jobs, 1)) as results,
        pytest.raises(ChildProcessError, match="workers=0"),
    ):
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


def program(name: str, *args: object, folder: Path, before: tuple[str, ...] = ()) -> Any:
    """killed.py or hostile.py, run to its end."""
    command = [*before, sys.executable, str(Path(__file__).with_name(name)), *map(str, args)]
    own = {"OMP_NUM_THREADS": "1", "MAEDFER_OUTPUT": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own})


def starved(folder: Path, *cases: str, before: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """How each verb ended under each limit; always in an answer."""
    done = program("killed.py", folder, *cases, folder=folder, before=before)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [json.loads(line) for line in done.stdout.splitlines() if line[:7] == '{"verb"']
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
    done = program("killed.py", tmp_path, first, last, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f"{last - first} cases"), done.stdout[:4000]


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


class Odd(Dataset):
    """Numbers, of which one is refused, one ends its process, and one cannot be handed over."""

    def __init__(self, **wrong: int):
        self.wrong = wrong

    def __getitem__(self, index: int) -> Any:
        if index == self.wrong.get("broken"):
            raise ValueError(f"number {index} is broken")
        if index == self.wrong.get("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        return Full() if index == self.wrong.get("full") else index


@pytest.mark.parametrize(
    ("wrong", "workers", "error", "message"),
    [
        ({"broken": 5}, 0, ValueError, "^number 5 is broken$"),  # with no traceback in its text
        ({"broken": 5}, 1, ValueError, "^number 5 is broken$"),
        ({"dies": 3}, 2, ChildProcessError, "died .*number 3"),
        # Multiprocessing drops it: the training waited for it for ever.
        ({"full": 0}, 1, ChildProcessError, "could not hand them over: Too many open files"),
    ],
)
def test_what_goes_wrong_in_a_reading_process_is_raised_here(wrong, workers, error, message):
    batches = [[i, i + 1] for i in range(0, 8, 2)]
    with pytest.raises(error, match=message):
        list(read_batches(Odd(**wrong), batches, workers, lambda i: f"number {i}", collate=list))


class Frames(Dataset):
    """Frames that are all of their number, and a label."""

    def __getitem__(self, index):
        return torch.full((2, 3), index, dtype=torch.uint8), index % 2


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
def test_batches_for_a_gpu_come_in_memory_that_is_used_again():
    """Each of the two workers has three places; a batch is whole until the next is asked for."""
    batches, places = [[4 * n, 4 * n + 1, 4 * n + 2][: 3 - n // 11] for n in range(12)], set()
    read = read_batches(Frames(), iter(batches), 2, str, pin_memory=True)
    for wanted, (frames, labels) in zip(batches, read, strict=True):
        assert frames.tolist() == [[[number] * 3] * 2 for number in wanted]
        assert labels.tolist() == [number % 2 for number in wanted]
        places.add(frames.data_ptr())
    assert len(places) == 6


def test_training_goes_on_with_workers_after_videos_were_decoded_here(tmp_path):
    """A forked worker would wait for ever for decord's threads, which stay with the parent."""
    for i in range(6):
        path = tmp_path / "clips" / ("calm", "wild")[i % 2] / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving_frames(24, seed=i))
        open_video(path).read([0, 3])
    config = FinetuneConfig(
        name="own", model=tiny().model, optim=OptimConfig(2, 2, warmup_steps=0),
        data=tmp_path / "clips", framing="whole",
    )  # fmt: skip
    alone = finetune(config, output=tmp_path)
    helped = finetune(config, output=tmp_path / "again", workers=2)
    assert helped.result["loss"] == alone.result["loss"]
    assert helped.result["confusion"] == alone.result["confusion"]


@forks
@pytest.mark.parametrize(
    ("first", "last"),
    [(0, 2_000), pytest.param(2_000, 102_000, marks=pytest.mark.hostile)],
)
def test_damaged_files_are_refused_by_name_or_read_as_before(first, last, tmp_path):
    """Read by a process, begun anew after the input at which it hangs or dies."""
    found, at = [], first
    while at < last:
        done = program("hostile.py", 19, at, last, folder=tmp_path)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        found += [line for line in lines if "fault" in json.loads(line)]
        if done.returncode == 0:
            break
        assert lines, f"it did not even start: {done.stderr[-800:]}"
        hangs = done.returncode in (-signal.SIGALRM, -signal.SIGPROF)
        why = "hangs" if hangs else f"dies ({done.returncode})"
        found.append(f"{lines[-1]}: {why}: {done.stderr[-800:]}")
        at = json.loads(lines[-1])["number"] + 1
    assert not found, f"{len(found)} faults:\n" + "\n".join(found[:20])
