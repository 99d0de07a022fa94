"""The benchmark: what it counts as a floor, how it compares, and that it refuses unequal things."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from maedfer_lab import cli
from maedfer_lab.bench import evaluation, model, plain
from maedfer_lab.bench.aims import LGI, TARGETS, VIT, judge
from maedfer_lab.bench.command import bench
from maedfer_lab.bench.floor import Products, products_of, replay
from maedfer_lab.bench.plain_data import finetuning_clip, pretraining_clip
from maedfer_lab.bench.report import Findings, Row, checked
from maedfer_lab.bench.settings import NAMES, Settings
from maedfer_lab.bench.timing import Stopwatch, Timing
from maedfer_lab.bench.twins import (
    Twins,
    check_autoencoder,
    check_gradient,
    check_logits,
    classifier_twins,
    make_twins,
    random_clips,
)
from maedfer_lab.config import Augment, EncoderKind, TargetConfig
from maedfer_lab.cost.formula import macs
from maedfer_lab.method.models import build_autoencoder, model_mask

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(Stopwatch(CPU, 0, 1), tmp_path_factory.mktemp("bench"), smoke=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All sections in smoke mode, once."""
    before = torch.get_num_threads()
    path = tmp_path_factory.mktemp("out") / "bench.json"
    report = bench(smoke=True, threads=1, json=path, device="cpu")
    assert torch.get_num_threads() == before
    return report, path


def autoencoder_twins(
    settings: Settings, encoder: EncoderKind = "lgi"
) -> tuple[Twins, torch.Tensor]:
    recipe = settings.recipe(encoder)
    twins = make_twins(build_autoencoder(recipe.model), CPU)
    generator = torch.Generator().manual_seed(0)
    return twins, model_mask(twins.ours, recipe.mask_ratio[0], 2, generator)


# ---------------------------------------------------------------------------- the floor


@pytest.mark.parametrize("encoder", NAMES)
def test_the_plain_way_does_the_published_products(settings, encoder):
    """Noted while it runs, and counted by formula."""
    twins = classifier_twins(settings, encoder)
    clips = random_clips(settings, 1)
    with torch.no_grad():
        found = products_of(lambda: plain.classify(twins.state, clips, twins.arguments), twins.ours)
    want = macs(twins.ours.config, "classify", num_classes=7, as_published=True)
    assert sum(product.macs for product in found) == sum(want.values())


def test_our_pretraining_does_no_more_products_than_the_formula(settings):
    twins, mask = autoencoder_twins(settings)
    ratio = settings.recipe("lgi").mask_ratio[0]
    with torch.no_grad():
        split = twins.ours.split(mask)
        clips = random_clips(settings, 2)
        found = products_of(lambda: twins.ours.predict(clips, split), twins.ours)
    want = sum(macs(twins.ours.config, "pretrain", mask_ratio=ratio).values())
    assert 0.5 * want < sum(product.macs for product in found) / 2 <= want


def test_a_backward_pass_has_twice_the_products():
    layer = torch.nn.Linear(12, 20)
    x = torch.rand(5, 7, 12, requires_grad=True)
    with Products(layer) as forward:
        layer(x)
    with Products(layer) as both:
        layer(x).sum().backward()
    assert [p.macs for p in forward.found] == [5 * 7 * 12 * 20]
    assert sum(p.macs for p in both.found) == 3 * 5 * 7 * 12 * 20


def test_fused_attention_counts_as_its_products():
    q, k, v = (torch.rand(2, 3, n, 8, requires_grad=True) for n in (5, 9, 9))
    one = 2 * 3 * 5 * 9 * 8
    with Products(torch.nn.Identity()) as noted:
        out = F.scaled_dot_product_attention(q, k, v)
        assert sum(p.macs for p in noted.found) == 2 * one
        out.sum().backward()
    assert sum(p.macs for p in noted.found) == 6 * one


@pytest.mark.parametrize("only_torch", [False, True])
def test_replaying_does_exactly_the_products_that_were_noted(settings, only_torch):
    twins = classifier_twins(settings, "lgi")
    labels, clips = torch.tensor([1]), random_clips(settings, 1)
    found = products_of(lambda: F.cross_entropy(twins.ours(clips), labels).backward(), twins.ours)
    again = products_of(replay(found, CPU, only_torch=only_torch), twins.ours)
    assert [p.macs for p in again] == [p.macs for p in found]
    assert any(p.a.weight or p.b.weight for p in found)


# ---------------------------------------------------------------------------- comparing


def test_works_take_turns_and_are_waited_for():
    order = []
    works = {name: lambda name=name: order.append(name) for name in "abc"}
    watch = Stopwatch(CPU, seconds=math.inf, least=1, most=3)
    taken = watch.alternate(works)
    assert "".join(order) == "abc" * 4  # the first round warms up
    assert [len(taken[name].seconds) for name in "abc"] == [3, 3, 3]
    ticks = iter(range(100))
    taken = Stopwatch(CPU, 0, 2).alternate(works, warm_up=False, clock=lambda: next(ticks))
    assert taken["a"].seconds == (1, 1) and len(order) == 18


def row(name: str, ours: float, floor: float | None = None, plain: float | None = None) -> Row:
    sides = [None if x is None else Timing((x, x, 9 * x)) for x in (ours, floor, plain)]
    return Row("model", name, sides[0], *sides[1:])  # type: ignore


def test_ratios_are_of_medians():
    one = row("x", ours=2.0, floor=1.6, plain=5.0)
    assert one.over_floor == 1.25 and one.speedup == 2.5
    assert one.ours.per(4).median == 0.5 and one.ours.quartiles == (2.0, 10.0)
    data = one.as_data()
    assert data["over_floor"] == 1.25 and data["ours"]["median"] == 2.0
    assert row("y", 1.0).as_data()["speedup"] is None


def test_aims_compare_the_rows_that_they_name():
    found = Findings([row(LGI, 1.2, 1.0, 1.5), row(VIT, 2.0), row("LGI-B forward, bf16", 0.5)])
    aims = {aim.name: aim for aim in judge(found)}
    over = aims["LGI-B forward over its floor, float32"]
    assert over.value == 1.2 and not over.is_reached
    assert aims["LGI-B forward, times faster than plain, float32"].value == 1.25
    assert aims["LGI-B forward in bf16, times faster than plain float32"].value == 3.0
    assert aims["LGI-B over ViT-B, forward at 16 frames"].is_reached
    found.rows += [row("LGI-B forward, 32 frames", 2.0), row("ViT-B forward, 32 frames", 5.0)]
    falls = next(aim for aim in judge(found) if "32 frames, over" in aim.name)
    assert math.isclose(falls.value, 0.4 / 0.6) and falls.is_reached
    assert len(judge(Findings())) == 0


# ---------------------------------------------------------------------------- equality


@pytest.mark.parametrize("broken", ["head.bias", "encoder.blocks.0.mlp.fc1.weight"])
def test_a_broken_classifier_is_not_timed(settings, broken):
    twins, clips = classifier_twins(settings, "lgi"), random_clips(settings, 1)
    assert check_logits(twins, clips, "LGI-B") and check_gradient(twins, clips, "LGI-B")
    with torch.no_grad():
        dict(twins.ours.named_parameters())[broken].add_(0.5)
    with pytest.raises(ValueError, match="LGI-B logits: ours and the plain way differ"):
        check_logits(twins, clips, "LGI-B")
    if broken != "head.bias":
        with pytest.raises(ValueError, match="LGI-B gradient"):
            check_gradient(twins, clips, "LGI-B")


@pytest.mark.parametrize("encoder", NAMES)
def test_a_broken_autoencoder_is_not_timed(settings, encoder):
    twins, mask = autoencoder_twins(settings, encoder)
    clips = random_clips(settings, 2)
    assert len(check_autoencoder(twins, clips, mask, "it")) == 2
    other = Twins(
        build_autoencoder(twins.ours.config, TargetConfig(motion=False)), twins.state,
        twins.arguments,
    )  # fmt: skip
    other.ours.load_state_dict(twins.ours.state_dict())
    with pytest.raises(ValueError, match="it pre-training loss"):
        check_autoencoder(other, clips, mask, "it")


def test_other_probabilities_are_refused(settings):
    twins = classifier_twins(settings, "lgi")
    table, clips = evaluation.labelled_videos(settings)
    exact = evaluation.test_ours(twins, table, clips, "float32")
    assert evaluation.check_probabilities(twins, table, clips, exact)
    moved = np.roll(exact.probabilities, 1, 1)
    with pytest.raises(ValueError, match="probabilities of a test set"):
        evaluation.check_probabilities(twins, table, clips, replace(exact, probabilities=moved))


def test_nothing_is_timed_after_a_failed_check(settings, monkeypatch):
    def broken(*arguments):
        twins = classifier_twins(*arguments)
        with torch.no_grad():
            twins.ours.fc_norm.weight.mul_(2)
        return twins

    monkeypatch.setattr(model, "classifier_twins", broken)
    monkeypatch.setattr(Stopwatch, "alternate", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(ValueError, match="no time was taken"):
        bench(("model",), smoke=True, threads=1, device="cpu")


def test_not_a_number_is_no_equality():
    with pytest.raises(ValueError, match="nan"):
        checked("x", math.nan)


# ---------------------------------------------------------------------------- the plain data


def test_plain_clips_are_normalised_floats(settings):
    from maedfer_lab.bench.clips import make_videos

    videos, rng = make_videos(settings), np.random.default_rng(0)
    for folder in (videos.mp4, videos.jpegs):
        path = videos.paths(folder)[0]
        for clip in (
            pretraining_clip(path, 8, 2, 32, rng),
            finetuning_clip(path, 8, 2, 32, Augment(erase=0), rng),
        ):
            assert clip.shape == (3, 8, 32, 32) and clip.dtype == torch.float32
            assert -2.2 < clip.min() < 0.5 and -1 < clip.max() < 2.7


# ---------------------------------------------------------------------------- whole runs


def test_a_run_measures_everything_and_comes_back_from_its_file(run):
    report, path = run
    names = [row.name for row in report.rows]
    assert len(set(names)) == len(names)
    wanted = {name for target in TARGETS for name, _ in (*target.above, *target.below)}
    longest = {"LGI-B forward, 64 frames", "ViT-B forward, 64 frames", "import models and training"}
    missing = wanted - longest - set(names)
    assert missing <= {name for name in wanted if "bf16" in name}, missing
    assert {row.section for row in report.rows} == {"model", "data", "evaluation", "waiting"}
    assert all(row.ours.median > 0 for row in report.rows)
    assert all(check.difference < 1e-5 for check in report.checks if check.tolerance)
    assert report.aims == []  # tiny models reach or miss nothing

    data = json.loads(path.read_text())
    assert data == json.loads(json.dumps(report.as_data()))
    assert {"machine", "threads", "versions", "commit", "seed"} <= set(data["provenance"])
    for entry in data["rows"]:
        if entry["floor"]:
            ratio = entry["ours"]["median"] / entry["floor"]["median"]
            assert math.isclose(entry["over_floor"], ratio)
    text = str(report)
    assert all(name in text for name in names) and str(path) in text
    assert path.with_suffix(".png").stat().st_size > 10_000


def test_the_figure_is_drawn_again_from_the_file(run):
    from maedfer_lab.figures import draw

    _, path = run
    first = path.with_suffix(".png").read_bytes()
    path.with_suffix(".png").unlink()
    draw(path)
    assert path.with_suffix(".png").read_bytes() == first


def test_arguments_out_of_range_are_refused(capsys, tmp_path):
    with pytest.raises(ValueError, match="threads=0"):
        bench(threads=0, smoke=True)
    with pytest.raises(ValueError, match=r"only=\('everything',\)"):
        bench(("everything",), smoke=True)  # type: ignore
    assert cli.main(["bench", "--smoke", "--json", str(tmp_path)]) == 2
    assert "folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["bench", "--help"])
    assert "beside a floor" in capsys.readouterr().out


def test_profile_names_operators(settings: Settings):
    assert "layer_norm" in model.profile_text(settings)
