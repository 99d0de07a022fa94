"""Trainings and preparations killed at any moment, and starved; a program that says how they end.

`python killed.py FOLDER FIRST LAST` makes cases FIRST to LAST - 1, each a function of its number:
what runs, and at which of its moments (a step, an open, a write half done, a rename, a removal) it
is killed, up to three times before it may end. `python killed.py FOLDER CASE...` runs verbs with
few open files, little memory, or processes that the system kills, and tells how each ended.
All fork from a process that has computed nothing, so that a case takes no start of Python.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from making_videos import moving_frames, write_video

from maedfer_lab import cli
from maedfer_lab.config import Augment, FinetuneConfig, tiny
from maedfer_lab.data.prepare import prepare
from maedfer_lab.data.table import read_annotations
from maedfer_lab.training import finetune, loop, pretrain

MOMENTS = {"open", "os.rename", "os.remove", "os.chmod"}  # of Python's audit events
FEW = 20  # cases that are spread evenly, with one kill each; the others are drawn
HANGS_S = 300
DROPPED = ("seconds", "provenance")  # of results and indices: they tell of time and place

PRETRAIN = replace(tiny(), optim=replace(tiny().optim, steps=6, warmup_steps=1), save_every=2,
                   eval_every=3, num_clips=8, num_held_out=2)  # fmt: skip
FINETUNE = FinetuneConfig(
    model=replace(tiny().model, drop_path=0.1), augment=Augment(rand_augment=""),
    optim=replace(tiny().optim, steps=4, batch_size=4, warmup_steps=1),
    num_clips=14, num_test=7, save_every=1, eval_every=2,
)  # fmt: skip


def run(kind: str, folder: Path) -> None:
    """Do the work of a kind in `folder`, or go on with it."""
    if kind == "pretrain":
        pretrain.pretrain(PRETRAIN, output=folder)
    elif kind == "finetune":
        finetune.finetune(FINETUNE, output=folder)
    else:
        table = read_annotations("folder", folder.parent / "clips")
        prepare(table, folder / "runs" / "ready", size_px=16, framing="whole", workers=0)


def run_killed(kind: str, folder: Path, kill_at: int) -> int:
    """`run` in a process that kills itself at a moment; 0 is never."""
    count = watch(str(folder), kill_at)
    run(kind, folder)
    folder.with_suffix(".count").write_text(str(count()))
    return 0


def in_fork(folder: Path, work: Callable[..., int], *given: Any) -> tuple[int, str]:
    """(status, what it said) of `work` in a process of its own."""
    said = folder.with_suffix(".txt")
    if (process := os.fork()) == 0:
        signal.setitimer(signal.ITIMER_REAL, HANGS_S)  # no handler: SIGALRM ends it
        with said.open("w") as file, contextlib.redirect_stderr(file):
            os.dup2(file.fileno(), 2)
            status = 1
            try:
                status = work(*given)
            except BaseException:
                traceback.print_exc(file=file)
            file.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return status, said.read_text()[-1500:]


def watch(folder: str, kill_at: int) -> Callable[[], int]:
    """Kill this process at the given moment of what it does in `folder`; gives their number."""
    number, fsync, step = 0, os.fsync, loop.Stepper.step

    def tick(half: int | None = None) -> None:
        nonlocal number
        number += 1
        if number == kill_at:
            if half is not None:  # what was written has reached the disk in part
                os.ftruncate(half, os.fstat(half).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(event: str, args: tuple[Any, ...]) -> None:
        if event in MOMENTS and any(isinstance(a, str | Path) and folder in str(a) for a in args):
            tick()

    def half_written(handle: int) -> None:
        tick(handle)
        fsync(handle)

    def before_step(*args: Any) -> Any:
        tick()
        return step(*args)

    stepper: Any = loop.Stepper
    os.fsync, stepper.step = half_written, before_step
    sys.addaudithook(hear)
    return lambda: number


def results(folder: Path) -> dict[str, Any]:
    """Content of every file below, without what differs from one run to the next."""
    found: dict[str, Any] = {}
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content: Any = path.read_bytes()
        if path.name in ("result.json", "index.json"):
            kept = json.loads(content)
            content = {key: value for key, value in kept.items() if key not in DROPPED}
        found[str(path.relative_to(folder))] = content
    return found


TINY = "--frames 4 --size_px 16 --tubelet 2 8 8 --region 1 2 2 --width 16 --depth 1 --num_heads 2 "
TINY += "--positions sequence --decoder_width 16 --decoder_depth 1 --decoder_heads 2"


def arguments(verb: str, root: Path) -> list[str]:
    """A short command on the clips below `root`."""
    short = {
        "prepare": "prepare folder --framing whole --size-px 16",
        "pretrain": "pretrain --preset tiny --steps 2 --num_clips 8",
        "finetune": "finetune folder --framing whole --epochs 1 --batch-size 2 "
        "--optim.warmup_steps 0 " + TINY.replace("--", "--model."),
    }[verb].split()
    place = [] if verb == "pretrain" else ["--root", str(root / "clips")]
    return [*short, *place, "--out", str(root / verb)]


def run_starved(case: str, args: list[str]) -> int:
    """A verb under a limit: files-WORKERS, memory-WORKERS, killed-WORKERS, or plain-WORKERS."""
    what, _, workers = case.partition("-")
    if what == "files":
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(7)[1]))
    if what == "memory":
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**27, resource.getrlimit(9)[1]))
    if what == "killed":
        threading.Thread(target=kill_workers, args=(os.getpid(),), daemon=True).start()
    return cli.main([*args, "--workers", workers])


def kill_workers(parent: int) -> None:
    """Kill what this process starts, and what that starts, as soon as it has begun to work."""
    while True:
        time.sleep(0.05)
        family = {parent}
        for stat in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda path: len(path.parts[2])):
            with contextlib.suppress(OSError, IndexError):
                pid = int(stat.parent.name)
                above = int(stat.read_text().rpartition(")")[2].split()[1])
                words = (stat.parent / "cmdline").read_text()
                if above == parent and "forkserver" in words:
                    family.add(pid)
                elif above in family and ("spawn_main" in words or above != parent):
                    os.kill(pid, signal.SIGKILL)


def starve(root: Path, cases: list[str]) -> None:
    """Run each verb under each limit; a line for each."""
    for verb, case in product(("prepare", "pretrain", "finetune"), cases):
        began = time.monotonic()
        status, said = in_fork(root / "said", run_starved, case, arguments(verb, root))
        shards = [json.loads(p.read_text()) for p in (root / verb).glob("shard-*.json")]
        skipped = sum(len(one["skipped"]) for one in shards)
        answer = {"verb": verb, "case": case, "status": status, "said": said, "skipped": skipped}
        print(json.dumps(answer | {"seconds": round(time.monotonic() - began, 1)}), flush=True)
        shutil.rmtree(root / verb, ignore_errors=True)


def write_clips(root: Path) -> None:
    """Six clips of two classes."""
    for i in range(6):
        clip = root / "clips" / ("happy", "sad")[i % 2] / f"{i}.mp4"
        clip.parent.mkdir(parents=True, exist_ok=True)
        write_video(clip, moving_frames(8, 32, 32, i))


def main(root: Path, first: int, last: int) -> None:
    """Kill and compare; a line for each case that went wrong, and one in the end."""
    kinds = ("pretrain", "finetune", "pretrain", "prepare")
    whole, moments = {}, {}
    for kind in kinds[1:]:
        folder = root / f"whole-{kind}"
        status, said = in_fork(folder, run_killed, kind, folder, 0)
        assert status == 0, said
        whole[kind] = results(root / f"whole-{kind}" / "runs")
        moments[kind] = int((root / f"whole-{kind}.count").read_text())
    kills = 0
    for number in range(first, last):
        kind, folder = kinds[number % 4], root / "again"
        rng = np.random.default_rng(number)
        points = rng.integers(1, moments[kind] + 1, size=int(rng.integers(1, 4))).tolist()
        if number < FEW:
            points = [1 + number * moments[kind] // FEW]
        statuses = []
        for point in (*points, 0):
            status, said = in_fork(folder, run_killed, kind, folder, point)
            statuses.append(status)
            kills += status == -signal.SIGKILL
            if status not in (0, -signal.SIGKILL):
                break
        again = results(folder / "runs")
        if statuses[-1] or again != whole[kind]:
            names = sorted(n for n in again | whole[kind] if again.get(n) != whole[kind].get(n))
            print(json.dumps({"case": number, "kind": kind, "points": points, "differ": names,
                              "statuses": statuses, "said": said}), flush=True)  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{last - first} cases, {kills} kills of {moments} moments", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    write_clips(place)
    if sys.argv[2].isdecimal():
        main(place, int(sys.argv[2]), int(sys.argv[3]))
    else:
        starve(place, sys.argv[2:])
