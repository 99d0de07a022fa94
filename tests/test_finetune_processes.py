"""Fine-tuning that is killed ends with the same bits; two processes fine-tune as one."""

import signal
from dataclasses import replace

import pytest
import torch
from making_datasets import make_class_folders
from safetensors.torch import load_file
from test_loop import TORCHRUN, in_child

from maedfer_lab.config import Augment, FinetuneConfig, OptimConfig, tiny
from maedfer_lab.runs import Run
from maedfer_lab.training.finetune import finetune, load_finetuned

TINY = FinetuneConfig(
    model=replace(tiny().model, drop_path=0.1),
    optim=OptimConfig(6, 4, lr=0.03, warmup_steps=1, betas=(0.9, 0.999)),
    layer_decay=0.75,
    framing="whole",
    augment=Augment(rand_augment="", erase=0.0),  # pairs are mixed; the rest is tested elsewhere
    eval_every=2,
    save_every=2,
)

KILLED = """
import os, signal
from test_finetune_processes import TINY, finetune, replace
from maedfer_lab import files
from maedfer_lab.training import finetune as module

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

where, fsync = sys.argv[2], os.fsync
judge, loss = module.FinetuneTask.judge, module.FinetuneTask.loss
def half_written(handle):
    place = os.readlink(f"/proc/self/fd/{handle}")
    if ".next.pt." in place:
        os.ftruncate(handle, os.fstat(handle).st_size // 2)
        die()
    fsync(handle)
def late(task, network, batch, step, places):
    return die() if step == 3 else loss(task, network, batch, step, places)
def judged(task):
    judge(task)
    die()
if where == "write":
    files.os.fsync = half_written
if where == "step":
    module.FinetuneTask.loss = late
if where == "judge":  # the best weights of this epoch are written, its checkpoint is not
    module.FinetuneTask.judge = judged
finetune(replace(TINY, data=Path(sys.argv[3])), output=Path(sys.argv[1]))
"""

TWO = """
from test_finetune_processes import TINY, finetune, replace
model = replace(TINY.model, drop_path=0.0)
finetune(replace(TINY, model=model, data=Path(sys.argv[2])), output=Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_class_folders(tmp_path_factory.mktemp("clips") / "own")


def test_a_finetuning_killed_at_three_points_ends_with_the_same_bits(clips, tmp_path):
    config = replace(TINY, data=clips)
    whole = finetune(config, output=tmp_path / "whole")
    folder, steps = Run.of(config, tmp_path / "killed").folder, []
    for where in ("write", "step", "judge"):
        child = in_child(KILLED, tmp_path / "killed", where, clips)
        _, errors = child.communicate(timeout=60)
        assert child.returncode == -signal.SIGKILL, errors
        state = Run(folder).load_state()
        steps.append(0 if state is None else state["step"])
    assert steps == [0, 2, 2]
    resumed = finetune(config, output=tmp_path / "killed")
    for name in ("model.safetensors", "log.csv"):
        assert (folder / name).read_bytes() == (whole.folder / name).read_bytes()
    for name in ("confusion", "best", "validation", "loss"):
        assert resumed.result[name] == whole.result[name]
    assert {p.name for p in folder.iterdir()} == {p.name for p in whole.folder.iterdir()}
    loaded = load_finetuned(whole.folder)
    assert loaded.config == config and loaded.result == whole.result


def test_two_processes_finetune_as_one(clips, tmp_path):
    """Same losses within 1e-5 of their size, same weights within 1e-5, same answers."""
    child = in_child(TWO, tmp_path / "two", clips, launcher=TORCHRUN)
    config = replace(TINY, model=replace(TINY.model, drop_path=0.0), data=clips)
    one = finetune(config, output=tmp_path / "one")
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    two = finetune(config, output=tmp_path / "two")  # loads what the processes left
    assert two.result["provenance"]["processes"] == 2
    assert two.result["loss"] == pytest.approx(one.result["loss"], rel=1e-5)
    for name in ("confusion", "uar", "war"):
        assert two.result[name] == one.result[name]
    first, second = (load_file(run.folder / "model.safetensors") for run in (one, two))
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=0, atol=1e-5, msg=name)
