"""Pre-training: loaded, in other ways of stepping; its data and settings."""

import errno
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from making_videos import write_video
from test_loop import assert_alike
from torch.testing import assert_close

from maedfer_lab.cli import main
from maedfer_lab.config import OptimConfig, base, learning_rate, preset, pretrain_config, tiny
from maedfer_lab.data.prepare import prepare
from maedfer_lab.data.table import read_annotations
from maedfer_lab.paper.tables import paper
from maedfer_lab.runs import Run, config_hash
from maedfer_lab.training import pretrain as loop
from maedfer_lab.training.optim import make_optimiser
from maedfer_lab.training.pretrain import PretrainTask, load_run, pretrain
from maedfer_lab.training.stream import VOXCELEB2_BOX, held_out_clips, pretraining_data

SMALL = replace(
    tiny(), optim=replace(tiny().optim, steps=12), save_every=4, eval_every=6, num_clips=8
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    return pretrain(SMALL, output=tmp_path_factory.mktemp("whole"))


def test_a_compiled_model_takes_the_same_steps(tmp_path, monkeypatch):
    # The same graphs, but run by PyTorch: writing and compiling C++ takes minutes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    config = replace(SMALL, optim=replace(tiny().optim, steps=2))
    runs = {way: pretrain(config, output=tmp_path / way, compile=way) for way in ("whole", "block")}
    plain = pretrain(config, output=tmp_path / "plain")
    assert plain.result["provenance"]["compiled"] == "no"
    assert all(m._compiled_call_impl is None for m in runs["block"].model.modules())
    for way, run in runs.items():
        assert run.result["provenance"]["compiled"] == way
        assert_alike(plain, run, atol=1e-5)


def test_a_finished_run_loads_and_is_the_same(whole):
    again = pretrain(SMALL, output=whole.folder.parents[1])
    assert again.result == whole.result
    assert_close(again.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    assert not (whole.folder / "checkpoint.pt").exists()
    assert load_run(whole.folder).config == SMALL
    changed = [replace(SMALL, seed=1), replace(SMALL, stride=3),
               replace(SMALL, model=replace(SMALL.model, drop_path=0.1))]  # fmt: skip
    assert len({config_hash(c) for c in [SMALL, *changed]}) == 4  # each another run
    assert [row["step"] for row in whole.log] == list(range(1, 13))
    for row in whole.log:
        assert row["loss"] == pytest.approx((row["appearance"] + row["motion"]) / 2)
    assert [row["step"] for row in whole.log if "held_out_appearance" in row] == [6, 12]
    lines = (whole.folder / "log.csv").read_text().splitlines()
    assert len(lines) == 13 and lines[0].startswith("step,lr,loss,appearance,motion")


def test_the_rate_of_every_published_epoch_is_reproduced():
    optim, epoch = base().optim, 6823
    published = [log.learning_rate for log in paper().pretrain_log]
    assert len(published) * epoch == optim.last_step == 341_150
    for number, rate in enumerate(published):
        steps = range(number * epoch, (number + 1) * epoch)
        mean = sum(learning_rate(step, optim) for step in steps) / epoch
        assert mean == pytest.approx(rate, rel=0, abs=1e-8)
    assert learning_rate(0, optim) == 0
    assert learning_rate(optim.steps, optim) == pytest.approx(1e-5 * 160 / 256)


def test_base_is_the_published_recipe():
    config, optim, model = base(), base().optim, base().model
    assert (model.frames, config.stride, model.size_px, model.tubelet) == (16, 4, 160, (2, 16, 16))
    assert (config.min_crop, config.mirror, config.tilt, config.jitter) == (0.66, False, 0, 0)
    assert config.mask_ratio == (0.9,) and model.region == (2, 5, 10)
    target = config.target
    assert (target.units, target.motion_group, target.motion_scale) == ("cube", 2, 1)
    assert target.motion_weight == 0.5 and model.drop_path == 0
    assert (optim.lr, optim.min_lr, optim.betas) == (3e-4, 1e-5, (0.9, 0.95))
    assert optim.weight_decay == 0.05 and optim.batch_size == 160
    assert optim.steps == 100 * 6823 and optim.warmup_steps == 5 * 6823
    assert VOXCELEB2_BOX == (0, 32, 160, 160)  # rows 0 to 160, columns 32 to 192
    model = PretrainTask(replace(tiny(), target=target)).model
    group = make_optimiser(model, optim).param_groups[0]
    assert group["eps"] == 1e-8 and tuple(group["betas"]) == (0.9, 0.95)


@pytest.fixture(scope="module")
def voxceleb2(tmp_path_factory):
    """A folder as VoxCeleb2 ships it, with pictures that tell rows and columns."""
    root = tmp_path_factory.mktemp("voxceleb2")
    rows, columns = np.mgrid[:224, :224].astype(np.uint8)
    picture = np.stack([rows, columns, np.zeros_like(rows)], -1)
    for person in ("id00012", "id00015", "id00016"):
        for number in (1, 2):
            folder = root / "dev" / "mp4" / person / "2DLq_Kkc1r8"
            folder.mkdir(parents=True, exist_ok=True)
            write_video(folder / f"0000{number}.mp4", np.repeat(picture[None], 20, 0))
    return root


def open_stream(config):
    """Stream, held-out clips and description of a configuration's data."""
    data = pretraining_data(config)
    return data.stream, held_out_clips(config, data)[0], data.description


def streamed(data):
    return replace(tiny(), data=data, framing="voxceleb2", held_out=0.3)


def test_voxceleb2_is_read_in_its_own_layout_and_framing(voxceleb2, tmp_path):
    source, held_out, description = open_stream(streamed(voxceleb2))
    assert "4 videos for training, 2 of other identities" in description
    assert len({source.name(i).split("/")[-3] for i in range(4)}) == 2  # people
    clip = held_out[0] * 255  # rows 0 to 160 and columns 32 to 192, at 32 pixels
    assert clip[0, 0].mean(1)[[0, -1]].tolist() == pytest.approx([2, 157], abs=6)
    assert clip[1, 0].mean(0)[[0, -1]].tolist() == pytest.approx([34, 189], abs=6)
    short = replace(streamed(voxceleb2), optim=OptimConfig(2, 2, warmup_steps=0))
    assert pretrain(short, output=tmp_path).log == pretrain(short, output=tmp_path / "2").log


def test_a_list_of_videos_is_read_as_the_reference_writes_it(voxceleb2, tmp_path):
    videos = sorted(voxceleb2.rglob("*.mp4"))
    path = tmp_path / "train.csv"
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(f"{v} -1\r\n".encode() for v in videos))
    listed, found = (open_stream(streamed(data))[0] for data in (path, voxceleb2))
    assert all(torch.equal(listed[i], found[i]) for i in range(3))
    with pytest.raises(FileNotFoundError, match="line 1"):
        path.write_text("lost.mp4 0\n")
        open_stream(streamed(path))


def test_prepared_sets_are_streamed_whatever_the_framing(voxceleb2, tmp_path):
    table = read_annotations("voxceleb2", voxceleb2)
    prepare(table, tmp_path / "whole", size_px=224, framing="whole", workers=0)
    shards, videos = (open_stream(streamed(data)) for data in (tmp_path / "whole", voxceleb2))
    assert "4 videos for training" in shards[2]
    assert_close(shards[1], videos[1], rtol=0, atol=0.05)
    prepare(table, tmp_path / "face", size_px=32, framing="face", workers=0)
    config = replace(tiny(), data=tmp_path / "face", held_out=0.3)
    plain, mixed = (open_stream(replace(config, synthetic=share)) for share in (0.0, 0.5))
    assert "decoded when needed" in plain[2] and "synthetic faces" in mixed[2]
    assert plain[0][0].shape == (config.model.frames, 32, 32, 3)
    assert torch.equal(plain[1], mixed[1]), "the same people, framed alike"


def test_frames_of_another_size_are_refused_by_name(video_folder):
    config = replace(streamed(video_folder), stride=1)
    with pytest.raises(ValueError, match=r"clip \d.mp4.*64 x 48.*framing='face'"):
        open_stream(config)[0][0]


def test_new_settings_leave_the_names_of_old_runs_and_old_files_load(tmp_path):
    run = Run.of(SMALL, tmp_path)
    values = json.loads((run.folder / "config.json").read_text())
    for name in ("log_every", "framing"):
        del values[name]
    for name in ("accumulate", "stop_after", "ema"):
        del values["optim"][name]
    assert pretrain_config(values) == SMALL
    assert config_hash(preset("demo")) == "107a41c924"
    assert config_hash(replace(SMALL, log_every=2)) != config_hash(SMALL)


def test_norms_biases_and_the_mask_token_do_not_decay(whole):
    optimiser = make_optimiser(whole.model, SMALL.optim)
    decayed = {id(p) for p in optimiser.param_groups[0]["params"]}
    spared = {n for n, p in whole.model.named_parameters() if id(p) not in decayed}
    assert "decoder.mask_token" in spared and "encoder.rep_tokens" not in spared
    assert all("norm" in n or "bias" in n or n == "decoder.mask_token" for n in spared)


def test_no_permission_to_write_is_told(tmp_path, monkeypatch):
    def denied(path, *_, **__):  # as of a folder with mode 500, which holds back all but root
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(PermissionError, match="MAEDFER_OUTPUT"):
        pretrain(SMALL, output=tmp_path)


def test_flags_and_every_field_of_a_recipe_can_be_set(tmp_path, capsys, monkeypatch):
    flags = "--preset tiny --encoder vit --steps 2 --batch-size 2 --checkpointing --name own "
    flags += "--optim.lr 1e-3 --model.region 2 2 2 --mirror"
    assert main(["pretrain", *flags.split(), "--out", str(tmp_path)]) == 0
    assert "held-out appearance loss" in capsys.readouterr().out
    (folder,) = (tmp_path / "runs").iterdir()
    config = load_run(folder).config
    assert (config.name, config.mirror, config.optim.lr) == ("own", True, 1e-3)
    assert (config.optim.steps, config.optim.batch_size) == (2, 2)
    assert (config.model.region, config.model.encoder) == ((2, 2, 2), "vit")
    with pytest.raises(FileNotFoundError, match="no finished run"):
        load_run(tmp_path)
    with pytest.raises(SystemExit):
        main(["pretrain", "--preset", "tiny", "--optim.lrr", "1"])
    assert "--optim.lr FLOAT" in capsys.readouterr().err

    def shape(config, **_):
        raise LookupError(config.model.width, config.model.depth, config.model.frames)

    monkeypatch.setattr(loop, "pretrain", shape)
    with pytest.raises(LookupError, match="1024, 24, 8"):
        loop.pretrain_command(preset="tiny", size="large")


def test_synthetic_faces_are_mixed_into_a_folder_by_the_share_asked_for(video_folder):
    config = replace(tiny(), data=video_folder, num_clips=3, tilt=5.0)
    real, mixed = (open_stream(replace(config, synthetic=s))[0] for s in (0.0, 0.5))
    faces = open_stream(replace(config, data=None))[0]
    same = [bool(torch.equal(mixed[i], real[i])) for i in range(20)]
    assert 4 <= sum(same) <= 16
    assert all(s or torch.equal(mixed[i], faces[i]) for i, s in enumerate(same))


def test_a_run_starts_from_one_of_shorter_or_longer_clips(tmp_path):
    short = replace(tiny(), model=replace(tiny().model, frames=4), optim=OptimConfig(
        steps=2, batch_size=4, lr=0.01, warmup_steps=0))  # fmt: skip
    first = pretrain(short, output=tmp_path)
    task = loop.PretrainTask(replace(tiny(), init=first.folder))
    own, theirs = task.model.state_dict(), first.model.state_dict()
    rep = "encoder.rep_tokens"
    assert own[rep].shape == (4, 32) and torch.equal(own[rep], theirs[rep].repeat(2, 1))
    assert all(torch.equal(own[name], theirs[name]) for name in own if name != rep)
    assert pretrain_config(json.loads(json.dumps(asdict(task.config), default=str))) == task.config
    long = pretrain(replace(task.config, optim=short.optim), output=tmp_path)
    again = loop.PretrainTask(replace(short, init=long.folder)).model.state_dict()
    halves = long.model.state_dict()[rep].unflatten(0, (2, 2))
    assert_close(again[rep], halves.mean(0))
    assert not torch.equal(halves[0], halves[1])
    wide = replace(tiny(), model=replace(tiny().model, width=48), init=first.folder)
    with pytest.raises(ValueError, match="representative tokens of shape"):
        loop.PretrainTask(wide)
    deep = replace(tiny(), model=replace(tiny().model, depth=3), init=first.folder)
    with pytest.raises(ValueError, match=r"is another model .*blocks"):
        loop.PretrainTask(deep)
