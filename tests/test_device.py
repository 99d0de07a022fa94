"""A step on an accelerator: few operators, no wait for the device, fed ahead; equal results.

There is none here: the step runs on the CPU, on PyTorch's device without data ("meta"), where
every look at a value is an error, and with a stand-in for the CUDA graph that runs it again.
"""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.data import default_collate

from maedfer_lab.bench.floor import Operators
from maedfer_lab.config import Augment, FinetuneConfig, OptimConfig, base, tiny
from maedfer_lab.cost.memory import LiveBytes
from maedfer_lab.method.models import build_classifier
from maedfer_lab.runs import Run
from maedfer_lab.training import device as module
from maedfer_lab.training.device import CapturedStep, Halved, blocks_of, choose_compile, moved
from maedfer_lab.training.finetune import FinetuneTask
from maedfer_lab.training.loop import Stepper
from maedfer_lab.training.pretrain import PretrainTask
from maedfer_lab.training.stream import labelled_data

CPU, ROOT = torch.device("cpu"), Path(__file__).parents[1]
SMALL = replace(base().model, width=96, num_heads=4, decoder_width=48, decoder_heads=2)
# Operators of the paper's step (16 + 4 blocks) before it was captured, counted alike.
FORMER = {"bf16": 2591, "float32": 1697}


def task_of(precision="float32", depth=1, **more):
    """The paper's recipe; one narrow block each, two clips at a time."""
    model = replace(SMALL, depth=depth, decoder_depth=1, **more)
    config = replace(tiny(), model=model, target=base().target, num_clips=2,
                     mask_ratio=(0.9,), precision=precision, num_held_out=1)  # fmt: skip
    return PretrainTask(replace(config, optim=replace(config.optim, batch_size=2, accumulate=1)))


def batch_of(task, step=0):
    places = range(task.config.optim.batch_size)
    frames = default_collate([task.stream[place] for place in places])
    return task.prepare(frames, step, places)


def again(parameters, runs, work):
    """In place of a CUDA graph: work is done once more, into the same memory."""
    losses = work()
    kept = [parameter.grad for parameter in parameters]

    def replay():
        runs.append(1)
        with _disable_current_modes():
            for old, new in zip(losses.values(), work().values(), strict=True):
                old.copy_(new)
            for old, parameter in zip(kept, parameters, strict=True):
                if old is not None and parameter.grad is not None:
                    old.copy_(parameter.grad)

    return replay, losses


def accelerated(task):
    """A stepper as on one GPU."""
    stepper, runs = Stepper(task), []
    if task.config.precision == "bf16":
        stepper.network = Halved(task.model, torch.bfloat16)
    capture = partial(again, [*task.model.parameters()], runs)
    stepper.captured = CapturedStep(stepper._of_part, task.model, capture)
    return stepper, runs


@pytest.mark.parametrize("precision", FORMER)
def test_a_step_issues_at_most_a_third_of_the_operators_and_gives_the_same(precision, monkeypatch):
    """What the host issues where a step is captured: the same for any depth."""
    monkeypatch.setattr("maedfer_lab.training.optim.has_bf16", lambda device: True)
    plain, quick = task_of(precision), task_of(precision)
    stepper, runs = accelerated(quick)
    losses = []
    for one in (Stepper(plain), stepper):
        batches = iter([batch_of(one.task, step) for step in range(2)])
        one.step(0, batches, one.shares)
        with Operators() as counted:
            row = one.step(1, batches, one.shares)
        losses.append({name: float(row[name]) for name in ("loss", "appearance", "motion")})
    total = counted.names.total()
    assert 3 * total <= FORMER[precision] and total < 60, counted.names
    assert len(runs) == 2 and losses[1] == pytest.approx(losses[0], rel=1e-5)
    for ours, theirs in zip(quick.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_weights_cast_at_once_give_the_same_bits_by_fewer_operators():
    task = task_of()
    batch, counts, found = batch_of(task), [], []
    for network in (task.model, Halved(task.model, torch.bfloat16)):
        with Operators() as counted:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = task.loss(network, batch)["loss"]
            loss.backward()
        counts.append(counted.names.total())
        found.append([loss.detach(), *(p.grad for p in task.model.parameters())])
        task.model.zero_grad()  # lets go of them
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert counts[1] < 0.85 * counts[0]


def test_a_frozen_encoder_gets_no_gradient_of_its_cast_weights():
    model = build_classifier(tiny().model, 7)
    model.encoder.requires_grad_(False)
    halved, seen = Halved(model, torch.bfloat16), []
    model.fc_norm.register_forward_pre_hook(lambda _, given: seen.append(given[0].requires_grad))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halved(torch.rand(2, 3, 8, 32, 32)).sum().backward()
    assert seen == [False] and model.head.weight.grad is not None


@pytest.mark.parametrize("encoder", ["lgi", "vit"])
def test_checkpointing_takes_less_memory_and_gives_the_same_bits(encoder):
    """Drop path draws again what it drew; afterwards the blocks are as they were."""
    found, peaks = [], []
    for checkpointing in (False, True):
        task = task_of(depth=12, encoder=encoder, drop_path=0.5)
        stepper = Stepper(task, checkpointing=checkpointing)
        batch = moved(batch_of(task), stepper.device)
        with LiveBytes() as memory:
            torch.manual_seed(0)
            loss = task.loss(stepper.network, batch)["loss"]
            loss.backward()
        peaks.append(memory.peak)
        found.append([loss.detach(), *(p.grad for p in task.model.parameters())])
        stepper.close()
        assert not any("forward" in vars(block) for block in blocks_of(task.model))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert peaks[1] < 0.8 * peaks[0]


@pytest.mark.parametrize("encoder", ["lgi", "vit"])
def test_a_step_never_waits_for_its_device(encoder):
    """On "meta" an `.item()`, a copy to the CPU or an index of booleans raises."""
    task, meta = task_of(encoder=encoder), torch.device("meta")
    batch = moved(batch_of(task), meta)
    task.model.to(meta)
    task.loss(task.model, batch)["loss"].backward()
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(torch.ones(1, device=meta))


def test_a_captured_fine_tuning_step_draws_and_learns_the_same(tmp_path):
    """Drop path, erasing and mixing: a graph that was recorded draws as the issued step does."""
    config = FinetuneConfig(
        model=replace(tiny().model, drop_path=0.5), optim=OptimConfig(3, 8, warmup_steps=1),
        augment=Augment(rand_augment="", erase=0.5), num_clips=28, num_test=7,
    )  # fmt: skip
    data, rows = labelled_data(config), []
    for is_captured in (False, True):
        model = build_classifier(config.model, 7)
        task = FinetuneTask(config, model, data, Run(tmp_path))
        stepper = accelerated(task)[0] if is_captured else Stepper(task)
        batches = (moved(default_collate([data.stream[8 * step + i] for i in range(8)]), CPU)
                   for step in range(3))  # fmt: skip
        rows.append([float(stepper.step(i, batches, stepper.shares)["loss"]) for i in range(3)])
        rows.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert rows[0] == rows[2] and torch.equal(rows[1], rows[3])


def test_a_rehearsal_leaves_the_means_of_a_norm(tmp_path):
    """Steps that are timed or recorded are none of the training's."""
    config = FinetuneConfig(model=tiny().model, optim=OptimConfig(1, 8, warmup_steps=0),
                            num_clips=28, num_test=7, pooling="regions")  # fmt: skip
    data, kept = labelled_data(config), []
    for is_captured in (False, True):
        task = FinetuneTask(config, build_classifier(config.model, 7, pooling="regions"), data,
                            Run(tmp_path))  # fmt: skip
        stepper = accelerated(task)[0] if is_captured else Stepper(task)
        before = [buffer.clone() for buffer in task.model.buffers()]
        stepper.time_alone(2)
        assert all(map(torch.equal, before, task.model.buffers()))
        stepper.step(0, iter([default_collate([data.stream[i] for i in range(8)])]), stepper.shares)
        kept.append([buffer.clone() for buffer in task.model.buffers()])
    assert all(map(torch.equal, *kept))


# A process of its own: the types that tests check at run time cannot be compiled.
ONE_GRAPH = """
import sys; sys.path.insert(0, "tests")
import torch
from test_device import batch_of, task_of
from maedfer_lab.data.transforms import to_floats
from maedfer_lab.method.attention import Attention
task = task_of()
clips, masked = to_floats(batch_of(task)[0]), batch_of(task)[2]
predicted = torch.rand(2, masked.shape[1], 1536)
attention, x = Attention(96, 4), torch.rand(3, 11, 96)
attention.few = 11
for part, *given in (task.model.compare, predicted, clips, masked), (attention, x):
    whole = torch.compile(part, backend="aot_eager", fullgraph=True, dynamic=False)
    for ours, theirs in zip(whole(*given), part(*given), strict=True):
        torch.testing.assert_close(getattr(ours, "total", ours), getattr(theirs, "total", theirs))
attention.few = 0
whole(x)
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3  # what is set is compiled
"""


def test_targets_and_few_keys_are_compiled_as_one_graph_and_give_the_same():
    """Attention to few tokens is then a sum in place of products."""
    command = [sys.executable, "-c", ONE_GRAPH]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_share_of_hidden_tokens_has_a_graph_of_its_own():
    task = task_of()
    task.config = replace(task.config, mask_ratio=(0.9, 0.5))
    stepper, runs = accelerated(task)
    for step in range(8):
        stepper.step(step, iter([batch_of(task, step)]), stepper.shares)
    assert stepper.captured is not None and len(stepper.captured.graphs) == 2 and len(runs) == 8


def test_what_cannot_be_captured_is_issued_and_told():
    task = task_of()
    stepper = accelerated(task)[0]

    def refuse(work):
        raise RuntimeError("operation not permitted when stream is capturing")

    stepper.captured = CapturedStep(stepper._of_part, task.model, refuse)
    with pytest.warns(UserWarning, match="not captured.*: operation not"):
        row = stepper.step(0, iter([batch_of(task)]), stepper.shares)
    assert float(row["loss"]) > 0


@pytest.mark.parametrize("is_captured", [False, True])
def test_what_cannot_be_compiled_runs_as_it_is_and_tells(is_captured, monkeypatch):
    """No C compiler, no Triton, a folder that cannot be written: errors of any kind."""

    def compile_nothing(module, **options):
        def refuse(*inputs, **more):
            raise FileNotFoundError("no gcc\nand more")

        module._compiled_call_impl = refuse

    monkeypatch.setattr(torch.nn.Module, "compile", compile_nothing)
    monkeypatch.setattr(module, "choose_compile", lambda *asked: "block")
    wanted, found = (Stepper(task_of(), how) for how in ("no", "auto"))
    module.uncompile_blocks(wanted.task.model)
    if is_captured:
        monkeypatch.setattr(CapturedStep, "_cuda_graph", lambda self, work: (work, work()))
        found.captured = CapturedStep(found._of_part, found.task.model)
    rows = [wanted.step(0, iter([batch_of(wanted.task)]), wanted.shares)]
    with pytest.warns(UserWarning, match="cannot be compiled here, they run as they are: no gcc"):
        rows.append(found.step(0, iter([batch_of(found.task)]), found.shares))
    assert rows[0]["loss"] == rows[1]["loss"]
    assert found.compiled == ("graph" if is_captured else "no")
    asked = Stepper(task_of(), "block")
    with pytest.raises(FileNotFoundError):  # who asks for it is told
        asked.step(0, iter([batch_of(asked.task)]), asked.shares)


def test_the_device_chooses_what_is_compiled():
    cuda = torch.device("cuda")
    assert choose_compile("auto", CPU, True) == "no"
    assert choose_compile("auto", cuda, True) == "graph"
    assert choose_compile("auto", cuda, False) == "block"
    assert choose_compile(True, CPU, True) == "whole"
    with pytest.raises(ValueError, match="compile='graph' needs one process on a CUDA device"):
        choose_compile("graph", CPU, True)


def test_batches_are_made_one_ahead_in_order():
    made = []
    numbers = module._early(made.append(n) or n for n in range(4))
    assert next(numbers) == 0 and made == [0, 1]
    assert list(numbers) == [1, 2, 3] and made == [0, 1, 2, 3]
