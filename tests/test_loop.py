"""The training loop: parts of a batch, processes, kills, full disks, broken losses."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import Dataset

from maedfer_lab import runs
from maedfer_lab.config import OptimConfig, PretrainConfig, tiny
from maedfer_lab.runs import Run
from maedfer_lab.training import loop, optim
from maedfer_lab.training.loop import TrainingTask, groups, own_share, train
from maedfer_lab.training.pretrain import pretrain

TESTS = Path(__file__).parent
SHORT = replace(tiny(), eval_every=6, save_every=4, num_clips=8, num_held_out=2)


MEANS = replace(SHORT, optim=replace(SHORT.optim, ema=0.8))
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
            "--rdzv-endpoint", "localhost:0")  # fmt: skip


def in_child(code: str, *args: object, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    """Python running `code` with one thread, the tests in its path and `args` in sys.argv[1:]."""
    start = f"import sys; sys.path.insert(0, {str(TESTS)!r}); import torch\n"
    start += "torch.set_num_threads(1)\nfrom pathlib import Path\n"
    where = ["-c", start + code]
    if launcher:  # a launcher takes a file
        script = Path(str(args[0])) / "script.py"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(start + code)
        where = [*launcher, str(script)]
    return subprocess.Popen(
        [sys.executable, *where, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )


def assert_alike(one, two, atol=1e-6):
    """Two runs have the same log, within 1e-5 of its numbers, and the same weights."""
    for ours, theirs in zip(one.log, two.log, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-5)
    first, second = (load_file(run.folder / "model.safetensors") for run in (one, two))
    torch.testing.assert_close(second, first, rtol=0, atol=atol)


# --- a small task of its own: seconds become milliseconds -----------------------------------


class Numbers(Dataset):
    def __init__(self, wait_s: float = 0.0):
        self.wait_s = wait_s

    def __getitem__(self, index):
        time.sleep(self.wait_s)
        generator = torch.Generator().manual_seed(index)
        return torch.rand(4, generator=generator)

    def name(self, index):
        return f"number {index}"


class Toy(TrainingTask):
    """A linear map learns the mean of four numbers, with dropout that must be repeated exactly."""

    def __init__(self, config, wait_s=0.0, dropout=0.0, spoil=None, stop=None):
        self.config, self.spoil, self.stop, self.best = config, spoil, stop, 1e9
        torch.manual_seed(0)
        self.parts = [nn.Linear(4, 8), nn.Dropout(dropout), nn.Linear(8, 1)]
        self.model = nn.Sequential(*self.parts)
        self.stream = Numbers(wait_s)

    def optimiser(self):
        slow, fast = self.parts[0].parameters(), self.parts[2].parameters()
        return torch.optim.AdamW([{"params": slow, "lr_scale": 0.5}, {"params": fast}])

    def finish(self, batch, step, places):
        if step == self.spoil and self.stop:
            os.kill(os.getpid(), self.stop)
        return batch * float("nan") if step == self.spoil and not self.stop else batch

    def loss(self, network, batch):
        return {"loss": (network(batch).squeeze(1) - batch.mean(1)).square().mean()}

    def validate(self):
        weights = float(sum(p.detach().abs().sum() for p in self.model.parameters()))
        self.best = min(self.best, weights)
        return {"best": self.best}

    def state_dict(self):
        return {"best": self.best}

    def load_state_dict(self, state):
        self.best = state["best"]


def toy_config(steps=30, batch_size=8, **more):
    recipe = OptimConfig(steps=steps, batch_size=batch_size, lr=0.3, warmup_steps=3)
    return PretrainConfig(
        name="toy", optim=replace(recipe, **more), eval_every=7, save_every=5, precision="float32"
    )


def toy_weights(task):
    return torch.cat([p.detach().flatten() for p in task.model.parameters()])


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from([None, 2, 4, 10]))
def test_shares_make_up_the_batch_and_keep_mixed_pairs_together(processes, share, group):
    size = processes * share
    shares = [own_share(size, processes, i, group) for i in range(processes)]
    assert sorted(place for part in shares for place in part) == list(range(size))
    with pytest.raises(ValueError, match=f"batch_size={size} must be a multiple of its {size + 1}"):
        own_share(size, size + 1, 0)
    assert all(part == sorted(part) and len(part) == share for part in shares)
    if share % 2 == 0:  # flipping a share's part of a group pairs the clips as flipping the group
        whole = {part[0]: part for part in groups(range(size), group)}
        for own in (own for part in shares for own in groups(part, group)):
            places = whole[own[0] // group * group if group else 0]
            assert [places[0] + places[-1] - place for place in own] == own[::-1]


def test_a_batch_in_parts_gives_the_result_of_the_whole(tmp_path):
    tasks = [Toy(toy_config(accumulate=parts)) for parts in (1, 2, 4)]
    logs = [train(task, Run(tmp_path / str(i))).log for i, task in enumerate(tasks)]
    for task, log in zip(tasks[1:], logs[1:], strict=True):
        torch.testing.assert_close(toy_weights(task), toy_weights(tasks[0]), rtol=0, atol=1e-6)
        assert [r["loss"] for r in log] == pytest.approx([r["loss"] for r in logs[0]], abs=1e-6)


@pytest.mark.parametrize(
    ("how", "ema"),
    [("nan", 0.0), ("nan", 0.9), ("damaged", 0.0), ("SIGINT", 0.0), ("SIGTERM", 0.0),
     pytest.param("SIGHUP", 0.0, marks=pytest.mark.skipif(os.name != "posix", reason="of Unix"))],
)  # fmt: skip
def test_a_run_that_was_stopped_goes_on_exactly(tmp_path, capsys, how, ema):
    """By a loss, Ctrl-C, Slurm or a closed terminal; also from the checkpoint before."""
    config = toy_config(ema=ema)
    whole, again = Toy(config, dropout=0.5), Toy(config, dropout=0.5)
    log = train(whole, Run(tmp_path / "whole")).log
    run = Run(tmp_path / "again")
    if number := getattr(signal, how, None):
        kept = signal.signal(number, signal.SIG_DFL)  # under nohup, SIGHUP is ignored
        with pytest.raises(KeyboardInterrupt):
            train(Toy(config, dropout=0.5, spoil=17, stop=number), run)
        assert signal.signal(number, kept) == signal.SIG_DFL, "it was given back"
        assert "Run the same command again" in "".join(capsys.readouterr())
    else:
        with pytest.raises(FloatingPointError):
            train(Toy(config, dropout=0.5, spoil=17), run)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if how == "damaged":  # by a bit of a weight: torch.load compares no checksum
            state, good = run.folder / "checkpoint.pt", cast(dict, run.load_state())
            content = bytearray(state.read_bytes())
            content[content.index(good["model"]["0.weight"].numpy().tobytes()) + 9] ^= 1
            state.write_bytes(content)
        resumed = train(again, run)
    told = [w for w in warned if re.search(r"cannot be read; .* step 10", str(w.message))]
    assert len(told) == (how == "damaged")
    assert torch.equal(toy_weights(again), toy_weights(whole))
    assert resumed.log == log and again.best == whole.best


class Watched(Toy):
    """Keeps the weights and the rates before each step."""

    def optimiser(self):
        self.groups, self.rates = (made := super().optimiser()).param_groups, []
        return made

    def loss(self, network, batch):
        self.rates.append([group["lr"] for group in self.groups])
        self.seen = [*getattr(self, "seen", []), toy_weights(self).clone()]
        return super().loss(network, batch)


def test_the_mean_of_the_weights_is_judged_and_kept_the_weights_are_trained(tmp_path):
    task, plain, run = Watched(toy_config(ema=0.9)), Toy(toy_config()), Run(tmp_path / "mean")
    log = train(task, run).log
    train(plain, Run(tmp_path / "plain"))
    kept = torch.cat([x.flatten() for x in cast(dict, run.load_state())["model"].values()])
    assert torch.equal(kept, toy_weights(plain))  # trained as without
    mean, judged = task.seen[0], {}
    for step, weights in enumerate([*task.seen[1:], kept], 1):
        mean = 0.9 * mean + 0.1 * weights
        judged[step] = float(mean.abs().sum())
    torch.testing.assert_close(toy_weights(task), mean)
    assert log[6]["best"] == pytest.approx(judged[7], rel=1e-6)
    assert task.rates == [[row["lr"] / 2, row["lr"]] for row in log]  # by the scale of a group


def test_a_loss_that_is_not_finite_names_its_clips_and_keeps_the_last_good_state(tmp_path):
    with pytest.raises(FloatingPointError) as caught:
        train(Toy(toy_config(), spoil=6), Run(tmp_path))
    names = [f"number {i}" for i in range(48, 56)]
    assert "step 7" in str(caught.value) and str(caught.value).split("\n  ")[1:] == names
    state = Run(tmp_path).load_state()
    assert state is not None and state["step"] == 5
    assert all(value.isfinite().all() for value in state["model"].values())
    (tmp_path / "checkpoint.pt").write_bytes(b"")  # then the run is not silently started anew
    with pytest.raises(ValueError, match="no checkpoint can be read"):
        train(Toy(toy_config()), Run(tmp_path))


def test_rows_of_the_log_are_means(tmp_path):
    config = toy_config(steps=25)
    rows = train(Toy(config), Run(tmp_path / "fine")).log
    means = train(Toy(replace(config, log_every=3)), Run(tmp_path / "coarse")).log
    assert [row["step"] for row in means] == [3, 6, 7, 10, 13, 14, 17, 20, 21, 24, 25]
    assert means[1]["loss"] == pytest.approx(sum(r["loss"] for r in rows[3:6]) / 3)
    assert [row["step"] for row in means if "best" in row] == [7, 14, 21, 25]
    part = train(Toy(toy_config(steps=25, stop_after=12)), Run(tmp_path / "part")).log
    assert [row["loss"] for row in part] == [row["loss"] for row in rows[:12]]  # left early


@pytest.mark.parametrize("beside", [False, True])
def test_waiting_for_data_is_told_once(tmp_path, capsys, monkeypatch, beside):
    """Also where the host never waits: a step takes longer than by itself."""
    monkeypatch.setattr(loop.Stepper, "time_alone", lambda self: 0.001)
    monkeypatch.setattr(loop, "is_beside", lambda device: beside)
    trained = train(Toy(toy_config(steps=40, batch_size=2), wait_s=0.004), Run(tmp_path))
    assert trained.waited > 0.3
    errors = capsys.readouterr().err
    assert errors.count("Data-bound: ") == 1 and "workers=2" in errors
    assert ("s a step, 0.001 alone" in errors) == beside


def test_overflow_in_fp16_skips_the_step_and_is_counted(tmp_path, monkeypatch):
    for module in (loop, optim):  # as on a GPU without bfloat16
        monkeypatch.setattr(module, "amp_dtype", lambda precision, device: torch.float16)
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *a, **k: scaler(*a, init_scale=2e6, **k))
    task = Toy(toy_config())
    trained = train(task, Run(tmp_path))
    assert 0 < trained.skipped < 30 and toy_weights(task).isfinite().all()


def test_tensorboard_gets_the_log_and_the_callers_random_numbers_are_left_alone(
    tmp_path, monkeypatch
):
    task = Toy(toy_config())
    before = torch.get_rng_state()
    log = train(task, Run(tmp_path), tensorboard=True).log
    assert torch.equal(torch.get_rng_state(), before)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [row["step"] for row in log]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'maedfer-lab\[tensorboard\]'"):
        train(task, Run(tmp_path / "without"), tensorboard=True)


# --- the disk --------------------------------------------------------------------------------


def full_for(monkeypatch, name, times):
    """Let writing `name` fail `times` times for want of space."""
    left, write = [times], runs.write_aside

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def write_aside(path, content, num_bytes=None, *rest):
        is_full = path.name == name and left[0] > 0
        left[0] -= is_full
        return write(path, full if is_full else content, num_bytes, *rest)

    monkeypatch.setattr(runs, "write_aside", write_aside)


def test_a_full_disk_is_told_and_loses_nothing(tmp_path, monkeypatch):
    whole, task = Toy(toy_config()), Toy(toy_config())
    train(whole, Run(tmp_path / "whole"))
    full_for(monkeypatch, "next.pt", 2)
    run = Run(tmp_path / "full")
    with pytest.warns(UserWarning) as warned:
        train(task, run)
    assert [str(w.message).split(" could")[0] for w in warned] == ["step 5", "step 10"]
    message = str(warned[0].message)
    assert "No space left" in message and "bytes" in message and str(run.folder) in message
    assert torch.equal(toy_weights(task), toy_weights(whole))


def test_a_disk_that_is_full_at_the_end_stops_the_run_and_the_next_start_ends_it(
    tmp_path, monkeypatch
):
    full_for(monkeypatch, "model.safetensors", 1)
    with pytest.raises(OSError, match=r"model.safetensors needs [\d,]+ bytes in"):
        pretrain(SHORT, output=tmp_path)
    state = Run.of(SHORT, tmp_path).load_state()
    assert state is not None and state["step"] == SHORT.optim.steps
    assert pretrain(SHORT, output=tmp_path).result["steps"] == SHORT.optim.steps


@pytest.mark.parametrize("write", ["state", "weights"])
def test_a_file_that_the_disk_has_no_room_for_leaves_the_one_before(tmp_path, write):
    resource = pytest.importorskip("resource")
    run, weight = Run(tmp_path), torch.rand(100_000)

    def save(x):
        if write == "state":
            run.save_state({"log": [], "weight": x})
        else:
            run.write("a", lambda path: runs.write_weights({"weight": x}, path), 400_000)

    save(weight)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: .* needs .* bytes in"):
            save(weight + 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- processes -------------------------------------------------------------------------------

TWO = "from test_loop import SHORT, pretrain\npretrain(SHORT, output=Path(sys.argv[1]))"


def test_two_processes_train_as_one(tmp_path):
    child = in_child(TWO, tmp_path / "two", launcher=TORCHRUN)
    one = pretrain(SHORT, output=tmp_path / "one")
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    two = pretrain(SHORT, output=tmp_path / "two")  # loads what the processes left
    assert two.result["provenance"]["processes"] == 2
    assert_alike(one, two)


SHARDED = """
import os, shutil, signal
from accelerate import PartialState
from test_loop import MEANS, loop, pretrain

took, out = loop.Stepper.step, Path(sys.argv[1])
def step(stepper, number, *rest):
    if number == 6:
        os.kill(os.getpid(), signal.SIGTERM)
    return took(stepper, number, *rest)
loop.Stepper.step = step
try:
    pretrain(MEANS, output=out, shard=True)
except KeyboardInterrupt:
    loop.Stepper.step = took
if PartialState().is_main_process:
    shutil.copytree(out, out.with_name("mixed"))
pretrain(MEANS, output=out, shard=True)
"""


def test_processes_that_hold_shares_train_as_one(tmp_path):
    """Stopped and gone on with; from the same state one process alone goes on as well."""
    child = in_child(SHARDED, tmp_path / "shares", launcher=TORCHRUN)
    one = pretrain(MEANS, output=tmp_path / "one")
    _, errors = child.communicate(timeout=120)
    if not hasattr(torch.cpu.Stream, "record_event"):
        assert child.returncode and "needs a later PyTorch" in errors
        return
    assert child.returncode == 0, errors
    assert not (tmp_path / "mixed" / "runs" / one.folder.name / "result.json").exists()
    for name in ("shares", "mixed"):
        assert_alike(one, pretrain(MEANS, output=tmp_path / name))
    with pytest.raises(ValueError, match="shard=True needs several processes"):
        pretrain(MEANS, output=tmp_path, shard=True)
