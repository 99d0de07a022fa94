"""What a training needs here: measured rows, memory, hours, disk."""

import dataclasses
import json
from dataclasses import replace

import pytest
import torch
from test_loop import TORCHRUN, in_child

from maedfer_lab.config import FinetuneConfig, tiny
from maedfer_lab.method.models import build_autoencoder
from maedfer_lab.training.estimate import _projected, estimate, estimate_command
from maedfer_lab.training.optim import make_optimiser

BIG = replace(tiny(), optim=replace(tiny().optim, batch_size=48, steps=3600))


@pytest.fixture(scope="module")
def found():
    return estimate(BIG, steps=2, seconds=60)


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
    path.write_text(json.dumps(dataclasses.asdict(config), default=str))
    assert estimate_command(str(path), steps=1).config == config
    assert estimate_command(str(tmp_path), steps=1, batch_size=1).rows[-1].batch_size == 1


def test_two_processes_are_measured_together_and_tell_it_once(tmp_path):
    code = "from maedfer_lab.cli import main\nmain(['estimate', 'tiny', '--steps', '2'])"
    out, errors = in_child(code, tmp_path, launcher=TORCHRUN).communicate(timeout=150)
    assert out.count("clips at once") == 1 and "2 processes" in out, errors[-3000:]
    rows = [line.split() for line in out.splitlines()[2:4]]
    assert [row[:2] for row in rows] == [["1", "2"], ["2", "1"]]  # each one's clips, accumulate
