import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maedfer_lab.config import OptimConfig, base, preset, pretrain_config, tiny
from maedfer_lab.config.schedule import learning_rate
from maedfer_lab.runs import Run, config_hash
from maedfer_lab.training import pretrain as loop
from maedfer_lab.training.clips import open_source
from maedfer_lab.training.optim import make_optimiser
from maedfer_lab.training.pretrain import load_run, pretrain

ENDLESS = replace(
    tiny(), optim=replace(tiny().optim, steps=60), save_every=4, eval_every=30, num_clips=8
)


def weights(run):
    return (run.folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    return pretrain(ENDLESS, output=tmp_path_factory.mktemp("whole"))


def start_process(output: Path) -> subprocess.Popen:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from test_pretrain import ENDLESS, pretrain;"
        "from pathlib import Path; print(pretrain(ENDLESS, output=Path(sys.argv[1])))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(output), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as here: threads round differently
    )


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_run_stopped_at_any_moment_ends_with_the_same_weights(tmp_path, whole, kill):
    process = start_process(tmp_path)
    state = Run.of(ENDLESS, tmp_path).folder / "checkpoint.pt"
    limit = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    process.send_signal(kill)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0, "the run ended before it could be stopped"
    if kill == signal.SIGINT:
        assert "Run the same command again to go on" in errors
    partial = torch.load(state, weights_only=True)
    assert 0 < partial["step"] < 60
    resumed = pretrain(ENDLESS, output=tmp_path)
    assert weights(resumed) == weights(whole)
    drop = ("seconds", "provenance")
    first, second = ({k: v for k, v in r.result.items() if k not in drop} for r in (whole, resumed))
    assert first == second


def test_a_finished_run_loads_and_is_the_same(whole):
    again = pretrain(ENDLESS, output=whole.folder.parents[1])
    assert again.result == whole.result
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    assert not (whole.folder / "checkpoint.pt").exists()
    assert load_run(whole.folder).config == ENDLESS


def test_logs_tell_appearance_motion_and_held_out_losses(whole):
    assert [row["step"] for row in whole.log] == list(range(1, 61))
    for row in whole.log:
        assert row["loss"] == pytest.approx((row["appearance"] + row["motion"]) / 2)
    judged = [row["step"] for row in whole.log if "held_out_appearance" in row]
    assert judged == [30, 60]
    assert set(whole.result["baselines"]) == {"zero", "interpolation"}
    lines = (whole.folder / "log.csv").read_text().splitlines()
    assert len(lines) == 61 and lines[0].startswith("step,lr,loss,appearance,motion")


def test_a_changed_setting_is_another_run(tmp_path):
    changed = [replace(ENDLESS, seed=1), replace(ENDLESS, stride=3),
               replace(ENDLESS, model=replace(ENDLESS.model, drop_path=0.1))]  # fmt: skip
    assert len({config_hash(c) for c in [ENDLESS, *changed]}) == 4
    run = Run.of(ENDLESS, tmp_path)
    assert pretrain_config(json.loads((run.folder / "config.json").read_text())) == ENDLESS


def test_videos_can_be_learned_from(tmp_path, video_folder):
    config = replace(tiny(), data=video_folder, optim=OptimConfig(4, 2, warmup_steps=0))
    run = pretrain(config, output=tmp_path)
    assert "identities held out" in run.result["data"]
    assert pretrain(config, output=tmp_path / "again").log == run.log


def test_learning_rate_warms_up_and_decays():
    optim = base().optim
    peak = 3e-4 * 160 / 256
    assert learning_rate(0, optim) == 0
    assert learning_rate(optim.warmup_steps, optim) == pytest.approx(peak)
    rates = [learning_rate(step, optim) for step in range(optim.warmup_steps, optim.steps, 9999)]
    assert rates == sorted(rates, reverse=True)
    assert learning_rate(optim.steps, optim) == pytest.approx(1e-5 * 160 / 256)


def test_norms_biases_and_the_mask_token_do_not_decay(whole):
    optimiser = make_optimiser(whole.model, ENDLESS.optim)
    decayed = {id(p) for p in optimiser.param_groups[0]["params"]}
    spared = {n for n, p in whole.model.named_parameters() if id(p) not in decayed}
    assert "decoder.mask_token" in spared and "encoder.rep_tokens" not in spared
    assert all("norm" in n or "bias" in n or n == "decoder.mask_token" for n in spared)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_state(tmp_path):
    config = replace(
        ENDLESS, optim=replace(ENDLESS.optim, lr=1e30, warmup_steps=0), save_every=1, seed=5
    )
    with pytest.raises(FloatingPointError, match="at step"):
        pretrain(config, output=tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_to_write_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="MAEDFER_OUTPUT"):
        pretrain(ENDLESS, output=tmp_path)


def test_an_unfinished_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished run"):
        load_run(tmp_path)


def test_the_command_takes_its_settings(tmp_path):
    run = loop.pretrain_command(preset="tiny", encoder="vit", steps=2, batch_size=2, out=tmp_path)
    assert run.config.optim.steps == 2 and run.config.model.encoder == "vit"
    assert "held-out appearance loss" in str(run)


def test_unknown_presets_are_told_the_known_ones():
    with pytest.raises(ValueError, match="base, demo, tiny"):
        preset("huge")


def test_synthetic_faces_are_mixed_into_a_folder_by_the_share_asked_for(video_folder):
    config = replace(tiny(), data=video_folder, num_clips=3, tilt=5.0)
    real, mixed = (open_source(replace(config, synthetic=share)) for share in (0.0, 0.5))
    faces = open_source(replace(config, data=None))
    same = [bool(torch.equal(mixed[i], real[i])) for i in range(20)]
    assert 4 <= sum(same) <= 16
    assert all(s or torch.equal(mixed[i], faces[i]) for i, s in enumerate(same))
