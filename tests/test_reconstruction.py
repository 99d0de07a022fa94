from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maedfer_lab.checkpoints.saving import save_official
from maedfer_lab.config import TargetConfig, tiny
from maedfer_lab.method.autoencoder import build_autoencoder
from maedfer_lab.method.classifier import build_classifier
from maedfer_lab.method.grid import take
from maedfer_lab.method.targets import make_target
from maedfer_lab.reconstruction import hide, reconstruct, reconstruct_clip, reconstruction_rows
from maedfer_lab.training.held_out import HeldOut, model_mask
from maedfer_lab.training.pretrain import pretrain

CONFIG = tiny().model


def clip_and_mask(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clip = torch.rand(3, CONFIG.frames, CONFIG.size_px, CONFIG.size_px, generator=generator)
    return clip, model_mask(model, 0.75, 1, generator)[0]


def know_all(model, clip, monkeypatch):
    """Let the model predict the truth."""
    target = make_target(clip[None], CONFIG.tubelet, model.target)
    monkeypatch.setattr(model, "predict", lambda _, split: take(target, split.masked))


@pytest.mark.parametrize("units", ["cube", "pixel", "imagenet"])
def test_a_perfect_prediction_gives_the_clip_back(units, monkeypatch):
    model = build_autoencoder(CONFIG, TargetConfig(units, motion_scale=4.0))
    clip, mask = clip_and_mask(model)
    know_all(model, clip, monkeypatch)
    result = reconstruct_clip(model, clip, mask, statistics="true")
    assert np.abs(result.reconstruction - result.original).max() < 1e-5
    assert np.abs(result.predicted_motion - result.motion).max() < 1e-5
    assert result.losses["model"] == {"appearance": 0.0, "motion": 0.0}
    assert result.losses["zero"]["appearance"] > 0 and result.error.max() == 0


@pytest.mark.parametrize("units", ["cube", "imagenet"])
def test_nothing_is_borrowed_from_hidden_pixels(units):
    model = build_autoencoder(CONFIG, TargetConfig(units))
    clip, mask = clip_and_mask(model)
    emptied = hide(clip, mask, CONFIG.tubelet)
    full, empty = (reconstruct_clip(model, c, mask, statistics="visible") for c in (clip, emptied))
    assert np.array_equal(full.reconstruction, empty.reconstruction)
    assert np.array_equal(full.interpolation, empty.interpolation)
    assert full.statistics == ("visible" if units == "cube" else "none")
    if units == "cube":  # the usual trick does borrow
        other = [reconstruct_clip(model, c, mask, statistics="true") for c in (clip, emptied)]
        assert not np.allclose(other[0].reconstruction, other[1].reconstruction)


def test_visible_cubes_stay_as_they_are():
    model = build_autoencoder(CONFIG, tiny().target)
    clip, mask = clip_and_mask(model)
    result = reconstruct_clip(model, clip, mask)
    hidden = hide(torch.zeros_like(clip), mask, CONFIG.tubelet).permute(1, 2, 3, 0).numpy() > 0
    for name in ("masked", "reconstruction", "interpolation"):
        assert np.array_equal(getattr(result, name)[~hidden], result.original[~hidden])
    assert (result.masked[hidden] == 0.5).all()
    assert ((result.error > 0) == mask.view(model.grid.shape).numpy()).all()


def test_losses_are_those_of_the_held_out_measure():
    model = build_autoencoder(CONFIG, tiny().target)
    clip, mask = clip_and_mask(model)
    held_out = HeldOut(model, clip[None], 0.75)
    held_out.parts = [(clip[None], model.split(mask[None]))]
    result = reconstruct_clip(model, clip, mask)
    assert result.losses["model"] == pytest.approx(held_out.losses(), rel=1e-4)
    for name, losses in held_out.baselines().items():
        assert result.losses[name] == pytest.approx(losses, rel=1e-4)


def test_motion_needs_an_even_frame():
    model = build_autoencoder(CONFIG, tiny().target)
    with pytest.raises(ValueError, match="frame=3 must be even"):
        reconstruction_rows([(reconstruct_clip(model, *clip_and_mask(model)), 3)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config = replace(tiny(), optim=replace(tiny().optim, steps=2, warmup_steps=0))
    return pretrain(config, output=tmp_path_factory.mktemp("trained")).folder


def test_the_verb_draws_any_video(trained, video_folder, tmp_path):
    out = tmp_path / "new" / "face.png"
    text = reconstruct(video_folder / "clip 0.mp4", out=out, checkpoint=trained)
    assert "appearance loss: model" in text and str(out) in text
    assert min(Image.open(out).size) > 500
    reconstruct(video_folder / "clip 0.mp4", out=out, checkpoint=trained, mask_ratio=0.5)


@pytest.mark.parametrize(
    ("clip", "options", "told"),
    [
        ("missing.mp4", {}, "missing.mp4"),
        ("clip 0.mp4", {"out": Path("x.gif")}, r"\.png, \.svg, \.pdf"),
        ("clip 0.mp4", {"mask_ratio": 0.9}, "mask_ratio=0.9"),
        ("clip 0.mp4", {"checkpoint": Path("nowhere")}, "there is no nowhere"),
    ],
)
def test_the_verb_refuses_what_it_cannot_do(trained, video_folder, clip, options, told, tmp_path):
    defaults = {"out": tmp_path / "x.png", "checkpoint": trained}
    with pytest.raises((ValueError, OSError), match=told):
        reconstruct(video_folder / clip, **{**defaults, **options})
    assert not (tmp_path / "x.png").exists()


def test_token_order_can_be_switched():
    model = build_autoencoder(CONFIG, tiny().target)
    clip, mask = clip_and_mask(model)
    own, right, published = (
        reconstruct_clip(model, clip, mask, token_order=order)
        for order in ("model", "right", "published")
    )
    assert own.losses == right.losses != published.losses
    legacy = build_autoencoder(replace(CONFIG, legacy_visible_order=True), tiny().target)
    assert reconstruct_clip(legacy, clip, mask).losses == published.losses


def test_the_verb_takes_official_checkpoints_and_refuses_classifiers(video_folder, tmp_path):
    model, out = build_autoencoder(CONFIG, tiny().target), tmp_path / "x.png"
    save_official(model, tmp_path / "pretrained.pth")
    text = reconstruct(
        video_folder / "clip 0.mp4",
        out=out,
        checkpoint=tmp_path / "pretrained.pth",
        mask_ratio=0.75,
    )
    assert out.exists() and "appearance loss" in text
    save_official(build_classifier(CONFIG, 7), tmp_path / "classifier.pth")
    with pytest.raises(ValueError, match="has no decoder"):
        reconstruct(video_folder / "clip 0.mp4", out=out, checkpoint=tmp_path / "classifier.pth")


def test_a_place_that_cannot_be_written_is_told_before_any_work(video_folder, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match=r"cannot write .*x\.png .*--out"):
        reconstruct(video_folder / "clip 0.mp4", out=tmp_path / "file" / "x.png")
