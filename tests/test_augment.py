"""The published training transform: shared over frames, fixed by its key, and mixed in pairs."""

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maedfer_lab.config import Augment
from maedfer_lab.data.augment import (
    PIXEL_MEAN,
    PIXEL_STD,
    augment_clip,
    erase,
    mix_batch,
    training_indices,
)
from maedfer_lab.data.clips import Box, crop_and_resize, to_tensor
from maedfer_lab.method.targets import IMAGENET_MEAN, IMAGENET_STD
from maedfer_lab.training.shares import own_share

NOTHING = Augment("", (1.0, 1.0), (1.0, 1.0), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def picture(seed=0, height=40, width=30):
    """A smooth picture with something in it, as a still clip of four frames."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (1, 6, 5, 3), dtype=np.uint8)
    return np.repeat(crop_and_resize(coarse, Box(0, 0, 6, 5), height, width), 4, axis=0)


def transformed(frames, augment, *key, size_px=32):
    return augment_clip(frames, Box(0, 0, *frames.shape[1:3]), size_px, augment, *key)


@pytest.mark.parametrize("key", range(12))
def test_a_still_clip_stays_still_because_draws_are_shared_by_its_frames(key):
    clip = transformed(picture(), replace(Augment(), erase=0.0), 0, key)
    assert clip.shape == (3, 4, 32, 32)
    assert all(torch.equal(clip[:, 0], clip[:, t]) for t in range(1, 4))
    assert 0 <= clip.min() and clip.max() <= 1


def test_a_clip_is_fixed_by_its_key_and_leaves_global_draws_alone():
    frames = picture()
    _ = random.seed(1), torch.manual_seed(1), np.random.seed(1)  # noqa: NPY002
    expected = random.random(), torch.rand(()).item(), np.random.rand()  # noqa: NPY002
    _ = random.seed(1), torch.manual_seed(1), np.random.seed(1)  # noqa: NPY002
    clip = transformed(frames, Augment(), 3, 7)
    assert (random.random(), torch.rand(()).item(), np.random.rand()) == expected  # noqa: NPY002
    assert torch.equal(clip, transformed(frames, Augment(), 3, 7))
    others = [transformed(frames, Augment(), *key) for key in ((3, 8), (4, 7), (7, 3))]
    assert not any(torch.equal(clip, other) for other in others)


def test_without_strength_the_clip_is_only_resized():
    frames = picture()
    plain = to_tensor(crop_and_resize(frames, Box(0, 0, 40, 30), 32, 32))
    assert torch.equal(transformed(frames, NOTHING, 0), plain)
    mirrored = transformed(frames, replace(NOTHING, flip=1.0), 0)
    assert torch.equal(mirrored, plain.flip(-1))


def test_every_operation_of_randaugment_is_drawn():
    """timm draws its operations anew for each clip; all 15 of them come up."""
    from timm.data.auto_augment import AugmentOp, rand_augment_transform

    known = {op.name for op in rand_augment_transform(Augment().rand_augment).ops}
    met: Counter = Counter()
    call = AugmentOp.__call__

    def note(self, img):
        met[self.name] += 1
        return call(self, img)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AugmentOp, "__call__", note)
        for key in range(60):
            transformed(picture(), NOTHING.__class__(), key)
    assert set(met) == known and len(known) == 15
    assert sum(met.values()) == 60 * 4 * 4, "four operations for each of four frames"


def test_erasing_is_one_box_of_noise_and_leaves_the_rest_bit_equal():
    clip = torch.full((3, 4, 40, 40), 0.5)
    torch.manual_seed(0)
    found = [erase(clip, 1.0) for _ in range(20)]
    for erased in found:
        hit = (erased != clip).any(0)  # T H W
        assert all(torch.equal(hit[0], hit[t]) for t in range(1, 4))
        rows, columns = hit[0].any(1).nonzero().flatten(), hit[0].any(0).nonzero().flatten()
        area = len(rows) * len(columns)
        assert hit[0].sum() == area == (rows.max() - rows.min() + 1) * len(columns)
        assert 0.01 <= area / 1600 <= 0.36
        assert 0 <= erased.min() and erased.max() <= 1, "what a picture can hold"
        assert not torch.equal(erased[:, 0], erased[:, 1]), "noise of its own for every frame"
    noise = torch.cat([x[0][x[0] != 0.5] for x in found])
    assert noise.mean() == pytest.approx(PIXEL_MEAN[0], abs=0.01)
    assert noise.std() == pytest.approx(PIXEL_STD[0], abs=0.01)
    assert torch.equal(erase(clip, 0.0), clip)


def test_noise_is_in_the_units_in_which_the_model_normalises():
    assert (PIXEL_MEAN, PIXEL_STD) == (IMAGENET_MEAN, IMAGENET_STD)


def test_the_crop_box_has_the_published_area_and_ratio(monkeypatch):
    from torchvision.transforms import RandomResizedCrop

    boxes = []
    get: Any = RandomResizedCrop.get_params

    def note(*arguments):
        boxes.append(get(*arguments))
        return boxes[-1]

    monkeypatch.setattr(RandomResizedCrop, "get_params", staticmethod(note))
    for key in range(150):
        transformed(picture(), replace(NOTHING, crop_area=(0.08, 1), crop_ratio=(0.75, 4 / 3)), key)
    areas = np.array([h * w / 32**2 for _, _, h, w in boxes])
    ratios = np.array([w / h for _, _, h, w in boxes])
    assert areas.min() < 0.2 and areas.max() > 0.8 and areas.min() > 0.06
    assert 0.65 < ratios.min() < 0.85 and 1.2 < ratios.max() < 1.5


@settings(max_examples=60)
@given(st.integers(1, 200), st.sampled_from([1, 2, 4]), st.integers(0, 9))
def test_training_frames_are_the_published_ones(length, stride, seed):
    span, count = 16 * stride, 16
    chosen = training_indices(length, count, stride, np.random.default_rng(seed))
    assert len(chosen) == count and 0 <= chosen.min() and chosen.max() <= length - 1
    assert (np.diff(chosen) >= 0).all()
    if length > span:
        assert chosen[-1] - chosen[0] == span - 1, "the whole span"
        assert chosen.max() < length - 1, "the very last frame is never reached (B15)"
    else:
        assert chosen[-1] == length - 1
        few = length // stride
        assert (chosen[few:] == length - 1).all()


def test_training_frames_by_hand():
    assert training_indices(65, 16, 4).tolist() == [int(64 * i / 15) for i in range(15)] + [63]
    assert training_indices(9, 4, 4).tolist() == [0, 8, 8, 8]
    drawn = training_indices(20, 16, 1, np.random.default_rng(0))
    assert set(np.diff(drawn)) <= {0, 1, 2}, "neighbours, but for the rounding of the spread"
    with pytest.raises(ValueError, match="stride=0"):
        training_indices(20, 16, 0)


@pytest.mark.parametrize("step", range(8))
@pytest.mark.parametrize("parts", [2, 4])
def test_processes_mix_the_pairs_that_one_process_mixes(step, parts):
    generator = torch.Generator().manual_seed(step)
    clips = torch.rand(8, 3, 4, 12, 12, generator=generator)
    labels = torch.randint(7, (8,), generator=generator)
    whole, targets = mix_batch(clips, labels, 7, Augment(), 0, step)
    for part in range(parts):
        places = own_share(8, parts, part)
        own, own_targets = mix_batch(clips[places], labels[places], 7, Augment(), 0, step)
        assert torch.equal(own, whole[places]) and torch.equal(own_targets, targets[places])
    assert torch.allclose(targets.sum(1), torch.ones(8))
    assert not torch.equal(whole, clips)


def test_mixing_is_mixup_or_a_box_over_all_frames_with_the_weight_of_its_area():
    clips = torch.zeros(2, 3, 4, 10, 10)
    clips[1] = 1.0
    labels = torch.tensor([0, 1])
    kinds = set()
    for step in range(30):
        mixed, targets = mix_batch(clips, labels, 2, Augment(), 0, step)
        assert torch.equal(mixed[:, :, :1].expand_as(mixed), mixed), "the same in all frames"
        share = mixed[0].mean().item()  # of the other clip
        assert targets[0, 1].item() == pytest.approx(0.05 + 0.9 * share, abs=1e-4)
        kinds.add("box" if set(mixed[0].unique().tolist()) <= {0.0, 1.0} else "blend")
    assert kinds == {"box", "blend"}


def test_an_odd_batch_is_refused_and_no_mixing_still_smooths():
    with pytest.raises(ValueError, match="even number"):
        mix_batch(torch.rand(3, 3, 2, 4, 4), torch.zeros(3, dtype=torch.long), 2, Augment(), 0)
    clips = torch.rand(3, 3, 2, 4, 4)
    plain = replace(Augment(), mixup=0.0, cutmix=0.0)
    same, targets = mix_batch(clips, torch.tensor([0, 1, 1]), 2, plain, 0)
    assert torch.equal(same, clips)
    assert targets[0].tolist() == pytest.approx([0.95, 0.05])
