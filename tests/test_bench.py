"""The benchmark: what it counts as a floor, how it compares, and that it refuses unequal things."""

import json
import math
import signal
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from maedfer_lab import cli
from maedfer_lab.bench import gpu, gpu_run, model
from maedfer_lab.bench import gpu_check as gpu_check_module
from maedfer_lab.bench.bench import bench_command
from maedfer_lab.bench.floor import Products, products_of, replay
from maedfer_lab.bench.gpu_check import SCALE, STEPS, gpu_check
from maedfer_lab.bench.measuring import SIDES, Bench, Check, aims_of, make_row, median
from maedfer_lab.config import EncoderKind, TargetConfig, tiny
from maedfer_lab.cost.formula import total_macs
from maedfer_lab.cost.plan import FEED
from maedfer_lab.figures import draw
from maedfer_lab.method.models import build_autoencoder, model_mask
from maedfer_lab.training.pretrain import PretrainTask

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(CPU, tmp_path_factory.mktemp("bench"), smoke=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All sections in smoke mode, once."""
    before = torch.get_num_threads()
    path = tmp_path_factory.mktemp("out") / "bench.json"
    report = bench_command(smoke=True, threads=1, json=path, device="cpu")
    assert torch.get_num_threads() == before
    return report, path


def autoencoders(bench: Bench, encoder: EncoderKind = "lgi") -> tuple[model.Pair, torch.Tensor]:
    recipe = bench.recipe(encoder)
    pair = model.make_pair(build_autoencoder(recipe.model), CPU)
    generator = torch.Generator().manual_seed(0)
    return pair, model_mask(pair.ours, recipe.mask_ratio[0], 2, generator)


# ---------------------------------------------------------------------------- the floor


@pytest.mark.parametrize("encoder", model.NAMES)
def test_the_plain_way_does_the_published_products(bench, encoder):
    """Noted while it runs, and counted by formula."""
    pair = model.classifiers(bench, encoder)
    with torch.no_grad():
        found = products_of(lambda: pair.logits(bench.noise(1)), pair.ours)
    want = total_macs(pair.ours.config, as_published=True)
    assert sum(product.macs for product in found) == want


def test_fused_attention_counts_as_its_products():
    q, k, v = (torch.rand(2, 3, n, 8, requires_grad=True) for n in (5, 9, 9))
    one = 2 * 3 * 5 * 9 * 8
    with Products(torch.nn.Identity()) as noted:
        out = F.scaled_dot_product_attention(q, k, v)
        assert sum(p.macs for p in noted.found) == 2 * one
        out.sum().backward()
    assert sum(p.macs for p in noted.found) == 6 * one


@pytest.mark.parametrize("only_torch", [False, True])
def test_replaying_does_exactly_the_products_that_were_noted(bench, only_torch):
    pair, labels, clips = model.classifiers(bench), torch.tensor([1]), bench.noise(1)
    found = products_of(lambda: F.cross_entropy(pair.ours(clips), labels).backward(), pair.ours)
    again = products_of(replay(found, CPU, only_torch=only_torch), pair.ours)
    assert [p.macs for p in again] == [p.macs for p in found]
    assert any(p.a.weight or p.b.weight for p in found)


# ---------------------------------------------------------------------------- comparing


def test_aims_and_ratios_are_those_of_the_published_rows():
    data = json.loads((ROOT / "figures" / "bench.json").read_text())
    for row in data["rows"]:
        rounds = {side: row[side]["rounds"] for side in SIDES if row[side]}
        assert row == make_row(row["section"], row["name"], rounds, row["item"], row["memory"])
    found = [{**aim._asdict(), "is_reached": aim.is_reached} for aim in aims_of(data["rows"])]
    for ours, published in zip(found, data["aims"], strict=True):
        assert ours == {**published, "value": pytest.approx(published["value"])}
    assert aims_of([]) == []


# ---------------------------------------------------------------------------- equality


@pytest.mark.parametrize("broken", ["head.bias", "encoder.blocks.0.mlp.fc1.weight"])
def test_a_broken_classifier_is_not_timed(bench, broken):
    pair, clips = model.classifiers(bench), bench.noise(1)
    model.check_logits(bench, pair, clips, "LGI-B")
    model.check_gradient(bench, pair, clips, "LGI-B")
    with torch.no_grad():
        dict(pair.ours.named_parameters())[broken].add_(0.5)
    with pytest.raises(ValueError, match="LGI-B logits: ours and the plain way differ"):
        model.check_logits(bench, pair, clips, "LGI-B")
    if broken != "head.bias":
        with pytest.raises(ValueError, match="LGI-B gradient"):
            model.check_gradient(bench, pair, clips, "LGI-B")


@pytest.mark.parametrize("encoder", model.NAMES)
def test_a_broken_autoencoder_is_not_timed(bench, encoder):
    pair, mask = autoencoders(bench, encoder)
    clips = bench.noise(2)
    model.check_autoencoder(bench, pair, clips, mask, "it")
    other = build_autoencoder(pair.ours.config, TargetConfig(motion=False))
    other.load_state_dict(pair.ours.state_dict())
    with pytest.raises(ValueError, match="it pre-training loss"):
        model.check_autoencoder(bench, pair._replace(ours=other), clips, mask, "it")


def test_nothing_is_timed_after_a_failed_check(monkeypatch):
    def broken(*arguments):
        pair = original(*arguments)
        with torch.no_grad():
            pair.ours.fc_norm.weight.mul_(2)
        return pair

    original = model.classifiers
    monkeypatch.setattr(model, "classifiers", broken)
    monkeypatch.setattr(Bench, "measure", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(ValueError, match="no time was taken"):
        bench_command(only=("model",), smoke=True, threads=1, device="cpu")


def test_not_a_number_is_no_equality(bench):
    with pytest.raises(ValueError, match="nan"):
        bench.check("x", math.nan)
    assert not Check("x", math.nan).is_passed and Check("x", 9.0, None).is_passed


# ---------------------------------------------------------------------------- whole runs


def test_a_run_measures_everything_and_comes_back_from_its_file(run):
    """Its rows are those of the published figure, but for what smoke mode leaves out."""
    report, path = run
    names = [row["name"] for row in report.rows]
    left_out = {"import torch", "import models and training", "import viewers"}
    published = json.loads((ROOT / "figures" / "bench.json").read_text())["rows"]
    want = [row["name"] for row in published]
    want = [name for name in want if name not in left_out and "64 frames" not in name]
    assert names == [name for name in want if name in names or "bf16" not in name]
    assert all(median(row) > 0 for row in report.rows)
    assert all(check.difference < 1e-5 for check in report.checks if check.tolerance)
    assert report.aims == []  # tiny models reach or miss nothing

    data = json.loads(path.read_text())
    assert data == json.loads(json.dumps(report.as_data()))
    assert data["rows"][0].keys() == published[0].keys()
    assert {"machine", "threads", "versions", "commit", "seed"} <= set(data["provenance"])
    text = str(report)
    assert all(name in text for name in names) and str(path) in text
    picture = path.with_suffix(".png")
    first = picture.read_bytes()
    picture.unlink()
    draw(path)
    assert picture.read_bytes() == first and len(first) > 10_000


def test_arguments_out_of_range_are_refused(capsys, tmp_path):
    with pytest.raises(ValueError, match="threads=0"):
        bench_command(threads=0, smoke=True)
    with pytest.raises(ValueError, match=r"only=\('everything',\)"):
        bench_command(only=("everything",), smoke=True)  # type: ignore
    assert cli.main(["bench", "--smoke", "--json", str(tmp_path)]) == 2
    assert "folder" in capsys.readouterr().err


def test_the_section_for_a_gpu_runs_where_there_is_none():
    """Tiny sizes; what a CPU has not (compiled and captured rows, a profile) is left out."""
    report = bench_command(smoke=True, threads=1, only=("gpu",), device="cpu")
    names = [row["name"] for row in report.rows]
    for name in ("pre-training step, 4 clips, issued", "pre-training step, 4 clips, products alone",
                 "pre-training step, 4 clips, written plainly", "evaluation, 4 clips, issued",
                 "fine-tuning step, 2 clips, issued"):  # fmt: skip
        assert f"LGI-B {name}" in names
    assert "LGI-B pre-training step, 2 clips, issued: issued by the host" in names
    assert any(map(FEED.fullmatch, names))  # as `maedfer plan` reads it
    assert all(median(row) > 0 for row in report.rows)


def test_what_was_measured_before_a_stop_is_reported(monkeypatch):
    """As `gpu_run` stops it when its time is up."""

    def stop(*pieces, **sizes):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "evaluation", stop)
    report = bench_command(smoke=True, threads=1, only=("gpu",), device="cpu")
    assert len(report.rows) == 4 and report.notes[-1].startswith("gpu: stopped at")


def test_a_part_of_a_gpu_run_ends_in_time_and_an_error_is_a_failed_check(tmp_path):
    part, sleep = ["timeit", "-n", "1", "-r", "1"], "import time; time.sleep(60)"
    log = tmp_path / "log.txt"
    assert "log: ended, NOT all" in gpu_run._run(
        log, [*part, "print('FAILED')"], 60, signal.SIGTERM
    )
    outcome = gpu_run._run(log, [*part, sleep], 0.5, signal.SIGTERM)
    assert f"NO end, status {-signal.SIGTERM}" in outcome

    def checks():
        yield Check("first", 0.0)
        raise RuntimeError("no compiler")

    first, failed = gpu_check_module._tried(checks())
    assert first.is_passed and not failed.is_passed and "no compiler" in failed.name


def test_a_device_is_compared_with_the_cpu():
    """Here the CPU with itself; also what is run in processes, killed and resumed."""
    printed, status = gpu_check("cpu", smoke=True)
    assert status == 0, printed
    assert "lgi: gradients, float32" in printed and "a run killed by SIGKILL and resumed" in printed


def test_a_loss_in_fp16_overflows_in_some_of_the_checked_steps():
    task = PretrainTask(tiny())
    frames = torch.stack([task.stream[place] for place in range(4)])
    task.loss(task.model, task.prepare(frames, 0, range(4)))["loss"].backward()
    largest = max(float(p.grad.abs().max()) for p in task.model.parameters() if p.grad is not None)
    halvings = math.log2(SCALE * largest / torch.finfo(torch.float16).max)
    assert 3 < halvings < STEPS - 3
