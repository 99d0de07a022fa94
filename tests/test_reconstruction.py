from dataclasses import replace

import numpy as np
import pytest
import torch

from maedfer_lab.config import TargetConfig, tiny
from maedfer_lab.method.grid import take
from maedfer_lab.method.models import build_autoencoder, model_mask
from maedfer_lab.method.reconstruction import hide, reconstruct_clip, reconstruction_rows
from maedfer_lab.method.targets import make_target
from maedfer_lab.training.held_out import HeldOut

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


@pytest.mark.parametrize(("units", "encoder"), [("cube", "lgi"), ("imagenet", "vit")])
def test_nothing_is_borrowed_from_hidden_pixels(units, encoder):
    model = build_autoencoder(tiny(encoder).model, TargetConfig(units))
    clip, mask = clip_and_mask(model)
    emptied = hide(clip, mask, CONFIG.tubelet)
    full, empty = (reconstruct_clip(model, c, mask, statistics="visible") for c in (clip, emptied))
    assert np.array_equal(full.reconstruction, empty.reconstruction)
    assert np.array_equal(full.interpolation, empty.interpolation)
    flat = reconstruct_clip(model, torch.full_like(clip, 0.3), mask)
    np.testing.assert_allclose(flat.interpolation, 0.3, atol=1e-6)
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


def test_token_order_can_be_switched():
    model = build_autoencoder(CONFIG, tiny().target)
    clip, mask = clip_and_mask(model)
    own, right, published = (
        reconstruct_clip(model, clip, mask, token_order=order)
        for order in ("model", "right", "published")
    )
    assert own.losses == right.losses != published.losses
    with pytest.raises(ValueError, match="frame=3 must be even"):
        reconstruction_rows([(own, 3)])
    legacy = build_autoencoder(replace(CONFIG, legacy_visible_order=True), tiny().target)
    assert reconstruct_clip(legacy, clip, mask).losses == published.losses
