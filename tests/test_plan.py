"""What a training needs: measured here; past one machine by hand, as the page is printed from."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from making_videos import moving_frames, write_video
from test_loop import TORCHRUN, in_child

from maedfer_lab import cli
from maedfer_lab.config import FinetuneConfig, base, tiny
from maedfer_lab.cost.formula import macs
from maedfer_lab.cost.plan import CARDS as SHEETS
from maedfer_lab.cost.plan import LIMITS, CardName, Form, Inputs, plan, replaced, usual_inputs
from maedfer_lab.data.prepare import prepare
from maedfer_lab.method.models import build_autoencoder
from maedfer_lab.training.estimate import (
    _projected,
    estimate,
    estimate_command,
    measure_reading,
    plan_command,
)
from maedfer_lab.training.loop import own_share
from maedfer_lab.training.optim import make_optimiser

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
CARDS: tuple[CardName, ...] = get_args(CardName)
FORMS: tuple[Form, ...] = get_args(Form)
NAMES = list(usual_inputs())
BIG = replace(tiny(), optim=replace(tiny().optim, batch_size=48, steps=3600))


def free(**slow: float) -> Inputs:
    """Everything takes next to no time but what is named."""
    fast = dict.fromkeys(("memory", "link", "network", "clips_per_core", "storage"), 1e12)
    ideal = {"peak": 1e12, "utilisation": 1.0, "reached": 1.0, "overlap": 0.0, "issue": 1e-12}
    return replaced(usual_inputs(), **{**fast, **ideal, **slow})


def test_every_row_of_the_page_is_the_plans():
    """Tables of docs/scaling.md, in order; its texts quote numbers of the same plans."""
    text = PAGE.read_text()
    lines = [line for line in text.splitlines() if line.startswith("|") and set(line) - {*"|-: "}]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    quick = replaced(usual_inputs("H100"), utilisation=0.4, issue=0.005)
    shards, mp4, h100 = usual_inputs(), usual_inputs(form="mp4"), usual_inputs("H100")
    plans = [plan(base(), inputs=inputs) for inputs in (shards, mp4, h100, quick)]
    plans.append(plan(base(), clips_per_gpu=40))
    want = [row for found in plans for row in found.cells]
    want.append(["input", "value", "origin", "source"])
    want += [[name.replace("_", " "), f"{x.value:g} {x.unit}", x.origin, x.source]
             for name, x in shards.items()]  # fmt: skip
    want.append(["card", "TFLOP/s", "memory GB/s", "link GB/s", "data sheet"])
    want += [[name, *(f"{x:g}" for x in sheet[:3]), sheet.sheet] for name, sheet in SHEETS.items()]
    assert rows == want
    assert plans[0].head in text and all(f"- {limit}" in text for limit in LIMITS)
    assert f"{plans[2].rows[0].hours / plans[0].rows[0].hours:.0%} of the A100's hours" in text
    assert f"gradients ({plans[0].parameters * 4 / 1e6:.0f} MB" in text
    vit = replace(base("vit").model, size_px=224)  # VideoMAE's own: 27 hours on 64 V100
    forward = macs(vit, "pretrain", mask_ratio=176 / 196, as_published=True)
    spent = 800 * 240_000 * 6 * sum(forward.values()) / (64 * 27 * 3600)
    assert f"By the same counting that is {spent / 125e12:.0%} of the cards' peak" in text


@pytest.mark.parametrize("gpus", [1, 4, 8])
def test_each_part_by_hand(gpus):
    """Ten TFLOP/s, 1 GB/s, a core that reads 5 clips in a second: one of them at a time."""
    clips, params, flops = 50 * 6823 * 160, 92_760_192, plan(base()).flops_per_clip
    for slow, name, seconds in (
        ({"peak": 10}, "GPU", clips * flops / 1e13 / gpus),
        ({"clips_per_core": 5, "cores_per_gpu": 3}, "loader", clips / (15 * gpus)),
        ({"storage": 1, "mb_per_clip": 2}, "storage", clips * 2e6 / 1e9),
        ({"issue": 0.1}, "issue", 50 * 6823 * 0.1),
    ):
        (row,) = plan(base(), [gpus], free(**slow)).rows
        assert row.hours == pytest.approx(seconds / 3600) and row.bottleneck == name
    (sent,) = plan(base(), [gpus], free(link=1)).rows
    assert sent.gradients_s == pytest.approx(2 * (gpus - 1) / gpus * 4 * params / 1e9)
    assert gpus == 1 or sent.bottleneck == "gradients"


def test_gradients_leave_the_machine_when_the_gpus_do():
    inputs = free(link=100, network=1, gpus_per_machine=8)
    inside, outside = plan(base(), (8, 16), inputs).rows
    assert outside.gradients_s == pytest.approx(100 * inside.gradients_s * (15 / 16) / (7 / 8))


def test_what_the_backward_pass_hides_is_not_waited_for():
    waits = [plan(base(), [8], free(peak=10, link=1, overlap=x)).rows[0] for x in (0, 0.5, 1)]
    assert [row.gradients_s for row in waits] == pytest.approx([waits[0].gradients_s] * 3)
    backward = waits[0].gpu_s * 2 / 3
    lost = [row.gradients_s - row.exposed_s for row in waits]
    assert lost == pytest.approx([0, 0.5 * backward, min(backward, waits[0].gradients_s)], rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 512), st.none() | st.integers(1, 64))
def test_batches_can_be_shared_and_every_clip_is_seen(gpus, clips_per_gpu):
    found = plan(base(), [gpus], clips_per_gpu=clips_per_gpu)
    (row,) = found.rows
    assert len(own_share(row.batch_size, gpus, 0)) == row.batch_size // gpus
    assert 0 <= row.steps * row.batch_size - found.clips < row.batch_size
    if clips_per_gpu is None:
        assert 0 <= row.batch_size - 160 < gpus


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(NAMES), st.floats(1.1, 10), st.integers(1, 100))
def test_more_of_anything_never_takes_longer(name, factor, gpus):
    inputs = usual_inputs()
    usual = inputs[name].value
    more = usual * factor if name not in ("issue", "mb_per_clip") else usual / factor
    more = min(more, 1.0) if inputs[name].unit == "share" else more
    before, after = (
        plan(base(), [gpus], i).rows[0] for i in (inputs, replaced(inputs, **{name: more}))
    )
    assert after.hours <= before.hours * (1 + 1e-12)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Two people of VoxCeleb2's shape, and the same prepared."""
    root = tmp_path_factory.mktemp("people")
    for i in range(2):
        folder = root / "mp4" / f"id0000{i}" / "talk"
        folder.mkdir(parents=True)
        write_video(folder / "00001.mp4", moving_frames(40, 224, 224, seed=i))
    prepare("voxceleb2", root=root / "mp4", out=root / "shards", framing="whole",
            margin=1.4, workers=0)  # fmt: skip
    return root


def test_reading_is_measured_with_a_worker(people, monkeypatch):
    config = replace(base(), held_out=0.5)
    for form in FORMS:
        there = replace(config, data=people / form)
        found = measure_reading(there, usual_inputs(), seconds=0.2)
        speed, size = found["clips_per_core"], found["mb_per_clip"]
        assert speed.value > 0 and speed.origin == size.origin == "measured"
        assert form in speed.source and form in size.source
        if form == "mp4":
            sizes = [path.stat().st_size for path in (people / form).rglob("*.mp4")]
            assert size.value == pytest.approx(sum(sizes) / 2e6, abs=1e-3)
    monkeypatch.setattr("maedfer_lab.training.estimate.SECONDS", 0.2)
    found = plan_command(data=people / "shards", storage=3.0)
    assert found.inputs["clips_per_core"].origin == "measured"
    assert found.inputs["storage"].value == 3 and math.isfinite(found.rows[0].hours)


def test_the_verb_prints_a_table_with_origins(capsys):
    assert cli.main(["plan", "--gpus", "2", "64", "--utilisation", "0.4", "--card", "L40S"]) == 0
    text = capsys.readouterr().out
    assert "192*" in text and "given" in text and "L40S" in text and "launching.md" in text
    for wrong, word in (
        (["--gpus", "0"], "gpus=(0,)"),
        (["--utilisation", "1.2"], "utilisation=1.2 must be a share"),
        (["--storage", "0"], "storage=0 must be positive"),
        (["--clips-per-gpu", "0"], "clips_per_gpu=0"),
    ):
        assert cli.main(["plan", *wrong]) == 2
        assert word in capsys.readouterr().err


def test_what_a_gpu_measured_takes_the_place_of_assumptions(tmp_path):
    """Of a card of that kind alone; by hand: 2,000 clips/s of 79.8 GFLOP, 14 workers at 2,800."""
    step = "LGI-B pre-training step, 160 clips, "
    rows = {f"{step}issued": 1 / 1000, f"{step}captured": 1 / 2000, f"{step}written plainly": 1e-4,
            f"{step}captured: issued by the host": 0.002,
            "feed of batches of 160, 14 workers, raw shards": 1 / 9000,
            "feed of batches of 160, 14 workers, jpeg shards": 1 / 2800}  # fmt: skip
    source = {"device": "NVIDIA H200", "profile": "bench", "commit": "abc",
              "versions": {"torch": "2.11"}}  # fmt: skip
    content = {"provenance": source, "rows": [
        {"name": name, "ours": {"median": seconds}} for name, seconds in rows.items()
    ]}  # fmt: skip
    path = tmp_path / "bench_gpu.json"
    path.write_text(json.dumps(content))
    found = plan_command(card="H200", measured=path, gpus=(1,)).inputs
    assert found["utilisation"].value == pytest.approx(79.76e9 * 2000 / 989e12, abs=1e-3)
    assert found["issue"].value == 0.002 and found["clips_per_core"].value == 200
    assert {found[name].origin for name in ("utilisation", "issue", "clips_per_core")} == {
        "measured"
    }
    assert plan_command(card="A100", measured=path, gpus=(1,)).inputs == usual_inputs("A100")


def test_other_recipes_are_planned_too():
    found = plan(tiny(), (1, 2))
    assert found.clips == 12 * 4 and found.rows[1].batch_size == 4
    with pytest.raises(ValueError, match="H100"):
        usual_inputs("H1")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found():
    return estimate(BIG, steps=2, seconds=60)


# --- measured here ---


def test_batches_hours_and_memory_that_grows_with_the_batch(found):
    assert found.parameters == sum(p.numel() for p in build_autoencoder(BIG.model).parameters())
    assert [row.batch_size for row in found.rows] == [1, 2, 4, 8, 16, 32, 48]
    for row in found.rows:
        assert row.steps == 2 and row.fastest_s <= row.step_s <= row.slowest_s
        assert found.hours(row) == pytest.approx(48 / row.batch_size * row.step_s)
    memory = [row.memory_bytes for row in found.rows]
    assert memory == sorted(memory) and memory[0] > 12 * found.parameters
    per_clip = [(row.memory_bytes - memory[0]) / (row.batch_size - 1) for row in found.rows[1:]]
    assert max(per_clip) < 1.6 * min(per_clip)
    assert _projected(found.rows[:4], 48).memory_bytes == pytest.approx(memory[-1], rel=0.3)


def test_a_checkpoint_is_as_large_as_told(found, tmp_path):
    model = build_autoencoder(BIG.model)
    optimiser = make_optimiser(model, BIG.optim)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    path = tmp_path / "state.pt"
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict()}, path)
    assert path.stat().st_size == pytest.approx(found.checkpoint_bytes, rel=0.35)  # names, offsets


def test_what_is_not_reached_is_projected_and_said():
    found = estimate(BIG, steps=1, seconds=1e-6)
    assert [row.batch_size for row in found.rows] == [1, 2, 48]
    assert found.rows[-1].steps == 0 and "projected" in str(found).splitlines()[4]


def test_configurations_of_runs_are_read(tmp_path):
    model = replace(tiny().model, drop_path=0.1)
    config = FinetuneConfig(model=model, optim=replace(tiny().optim, batch_size=2))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(asdict(config), default=str))
    assert estimate_command(str(path), steps=1).config == config
    assert estimate_command(str(tmp_path), steps=1, batch_size=1).rows[-1].batch_size == 1


def test_two_processes_are_measured_together_and_tell_it_once(tmp_path):
    code = "from maedfer_lab.cli import main\nmain(['estimate', 'tiny', '--steps', '2'])"
    out, errors = in_child(code, tmp_path, launcher=TORCHRUN).communicate(timeout=150)
    assert out.count("clips at once") == 1 and "2 processes" in out, errors[-3000:]
    rows = [line.split() for line in out.splitlines()[2:4]]
    assert [row[:2] for row in rows] == [["1", "2"], ["2", "1"]]  # each one's clips, accumulate
