"""The published transforms: shared over frames, fixed by their key, mixed in pairs; RandAugment
against timm and Pillow, frame by frame: the same draws and pixels; those of pre-training."""

import math
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial, reduce
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from timm.data import auto_augment
from timm.data.mixup import Mixup
from torchvision.transforms.v2 import functional as v2

from maedfer_lab.config import Augment
from maedfer_lab.data.folder import vary_clip
from maedfer_lab.data.rand_augment import KNOWN, Operation, apply_operations, draw_operations
from maedfer_lab.data.transforms import (
    CROP_PLACES,
    CROP_SCALES,
    PIXEL_MEAN,
    PIXEL_STD,
    Box,
    augment_clip,
    blend_clips,
    centre_square,
    clip_indices,
    crop_and_resize,
    crop_box,
    finish_clips,
    jitter_colours,
    mirror,
    mix_batch,
    multi_scale_box,
    tilt_clip,
    to_bytes,
    to_floats,
    to_tensor,
    training_indices,
)
from maedfer_lab.method.targets import IMAGENET_MEAN, IMAGENET_STD

NOTHING = Augment("", (1.0, 1.0), (1.0, 1.0), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def pictures(frames=3, height=48, width=40, seed=0):
    """Smooth pictures with something in them, all different."""
    coarse = np.random.default_rng(seed).integers(0, 256, (frames, 7, 6, 3), dtype=np.uint8)
    return crop_and_resize(coarse, Box(0, 0, 7, 6), height, width)


def picture(seed=0):
    return np.repeat(pictures(1, 40, 30, seed), 4, axis=0)


def transformed(frames, augment, *key, size_px=32):
    return augment_clip(frames, Box(0, 0, *frames.shape[1:3]), size_px, augment, *key)


def global_draws() -> np.ndarray:
    state: Any = np.random.get_state()  # noqa: NPY002
    return state[1].copy()


def test_a_clip_is_fixed_by_its_key_shared_by_its_frames_and_leaves_global_draws_alone(monkeypatch):
    def item(key):
        return transformed(picture(key % 5), Augment(), 0, key)

    _, state, before = torch.manual_seed(1), torch.get_rng_state(), global_draws()
    with monkeypatch.context() as patch:  # (what checks types in tests draws from getrandbits)
        for name in ("seed", "random", "uniform", "gauss"):
            patch.setattr(random, name, lambda *_: pytest.fail("Python's own generator is used"))
        clips = [item(key) for key in range(40)]
    assert torch.equal(torch.get_rng_state(), state) and np.array_equal(global_draws(), before)
    with ThreadPoolExecutor(4) as pool:
        for clip, again in zip(clips, pool.map(item, range(40)), strict=True):
            assert clip.shape == (4, 32, 32, 3) and (clip == clip[0]).all()
            assert np.array_equal(clip, again)
    others = [transformed(picture(), Augment(), *key) for key in ((3, 8), (4, 7), (7, 3), (8, 3))]
    assert len({clip.tobytes() for clip in others}) == 4


def test_without_strength_the_clip_is_only_resized():
    frames = picture()
    plain = crop_and_resize(frames, Box(0, 0, 40, 30), 32, 32)
    assert np.array_equal(transformed(frames, NOTHING, 0), plain)
    mirrored = transformed(frames, replace(NOTHING, flip=1.0), 0)
    assert np.array_equal(mirrored, plain[:, :, ::-1])


def test_erasing_is_one_box_of_noise_and_leaves_the_rest_bit_equal():
    always = replace(NOTHING, erase=1.0)
    frames = torch.full((20, 4, 40, 40, 3), 51, dtype=torch.uint8)
    keys = [(0, item) for item in range(20)]
    clips = finish_clips(frames, NOTHING, keys)
    assert clips.shape == (20, 3, 4, 40, 40) and (clips == 0.2).all(), "a fifth of white"
    found = finish_clips(frames, always, keys)
    for erased in found:
        hit = (erased != 0.2).any(0)  # T H W
        assert all(torch.equal(hit[0], hit[t]) for t in range(1, 4))
        rows, columns = hit[0].any(1).nonzero().flatten(), hit[0].any(0).nonzero().flatten()
        area = len(rows) * len(columns)
        assert hit[0].sum() == area == (rows.max() - rows.min() + 1) * len(columns)
        assert 0.01 <= area / 1600 <= 0.36
        assert 0 <= erased.min() and erased.max() <= 1, "what a picture can hold"
        assert not torch.equal(erased[:, 0], erased[:, 1]), "noise of its own for every frame"
    noise = torch.cat([x[0][x[0] != 0.2] for x in found])
    assert noise.mean() == pytest.approx(PIXEL_MEAN[0], abs=0.01)
    assert noise.std() == pytest.approx(PIXEL_STD[0], abs=0.01)
    assert (PIXEL_MEAN, PIXEL_STD) == (IMAGENET_MEAN, IMAGENET_STD), "the model's units"
    part = finish_clips(frames[[7, 3]], always, [keys[7], keys[3]])
    assert torch.equal(part, found[[7, 3]]), "by its key, not by its place in the batch"
    frames = torch.zeros(400, 1, 8, 8, 3, dtype=torch.uint8)
    clips = finish_clips(frames, Augment(), [(1, item) for item in range(400)])
    assert clips.flatten(1).any(1).float().mean() == pytest.approx(0.25, abs=0.06)


def test_the_crop_box_has_the_published_area_and_ratio():
    """The same distribution as torchvision's: area, ratio and place of 1,500 boxes each."""
    from torchvision.transforms import RandomResizedCrop

    area, ratio, picture = (0.08, 1.0), (0.75, 4 / 3), torch.empty(3, 160, 160)
    rng, params = np.random.default_rng(0), RandomResizedCrop.get_params
    ours = np.array([crop_box(160, 160, area, ratio, rng) for _ in range(1500)])
    torch.manual_seed(0)
    theirs = np.array([params(picture, [*area], [*ratio]) for _ in range(1500)])
    for name, measure in {
        "area": lambda boxes: boxes[:, 2] * boxes[:, 3],
        "ratio": lambda boxes: boxes[:, 3] / boxes[:, 2],
        "top": lambda boxes: boxes[:, 0],
        "left": lambda boxes: boxes[:, 1],
    }.items():
        tested: Any = ks_2samp(measure(ours), measure(theirs))
        assert tested.pvalue > 1e-3, name
    assert ours.min() >= 0 and (ours[:, :2] + ours[:, 2:]).max() <= 160
    middle = crop_box(10, 200, (0.9, 1.0), (0.75, 4 / 3), rng)
    assert middle == Box(0, 93, 10, 13), "where none fits, of the nearest ratio"


@settings(max_examples=60)
@given(st.integers(1, 200), st.sampled_from([1, 2, 4]), st.integers(0, 9))
def test_training_frames_are_the_published_ones(length, stride, seed):
    span, count = 16 * stride, 16
    chosen = training_indices(length, count, stride, np.random.default_rng(seed))
    assert len(chosen) == count and 0 <= chosen.min() and chosen.max() <= length - 1
    assert (np.diff(chosen) >= 0).all()
    if length > span:
        assert chosen[-1] - chosen[0] == span - 1, "the whole span"
        assert chosen.max() < length - 1, "the very last frame is never reached"
    else:
        assert (chosen[min(length // stride, count - 1) :] == length - 1).all()


def test_training_frames_by_hand():
    assert training_indices(65, 16, 4).tolist() == [int(64 * i / 15) for i in range(15)] + [63]
    assert training_indices(9, 4, 4).tolist() == [0, 8, 8, 8]
    with pytest.raises(ValueError, match="stride=0"):
        training_indices(20, 16, 0)


def test_mixing_is_timms_to_the_last_bit_by_blending_or_a_box():
    clips, labels, kinds = torch.rand(4, 3, 2, 9, 12), torch.tensor([0, 2, 1, 0]), set()
    before = global_draws()
    for step in range(12):
        words = np.random.SeedSequence((0, step)).generate_state(6)
        ours, targets = mix_batch(clips.clone(), labels, 3, Augment(), 0, step)
        assert np.array_equal(global_draws(), before), "global draws stay"
        np.random.seed(words[2:4])  # noqa: NPY002
        theirs = Mixup(0.8, 1.0, switch_prob=0.5, label_smoothing=0.1, num_classes=3)
        expected, soft = theirs(clips.clone().flatten(1, 2), labels)
        assert torch.equal(ours.flatten(1, 2), expected) and torch.equal(targets, soft)
        before = global_draws()
        kinds.add(((ours == clips) | (ours == clips.flip(0))).all().item())
    assert kinds == {True, False}


@pytest.mark.parametrize(("groups", "spread"), [(1, 0.147), (3, 0.085)])
def test_how_much_one_clip_dominates_a_batch_spreads_as_in_the_official_code(groups, spread):
    """Recorded from it: one draw for a batch, or one for each of its three processes."""
    augment, labels = replace(Augment(), smoothing=0.0), torch.tensor([0, 1])
    clips = torch.zeros(2, 1, 1, 160, 160).expand(2, 3, 1, 160, 160).contiguous()
    means = [
        np.mean(
            [mix_batch(clips, labels, 2, augment, 0, i, group)[1].max() for group in range(groups)]
        )
        for i in range(900)
    ]
    assert np.std(means) == pytest.approx(spread, rel=0.08)


def test_an_odd_batch_is_refused_and_no_mixing_still_smooths():
    clips, labels = torch.rand(3, 3, 2, 4, 4), torch.tensor([0, 1, 1])
    with pytest.raises(ValueError, match="even number"):
        mix_batch(clips, labels, 2, Augment(), 0)
    same, targets = mix_batch(clips.clone(), labels, 2, replace(Augment(), mixup=0, cutmix=0), 0)
    assert torch.equal(same, clips)
    assert targets[0].tolist() == pytest.approx([0.95, 0.05])


# --- RandAugment ---

PUBLISHED = Augment().rand_augment
MOVES = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
BICUBIC = {"interpolation": Image.Resampling.BICUBIC}
POINTWISE = {"AutoContrast": 0, "Equalize": 0, "Invert": 0, "Posterize": 2, "Solarize": 77,
             "SolarizeAdd": 77, "Color": 1.63, "Contrast": 1.63, "Brightness": 1.63,
             "Sharpness": 1.63}  # fmt: skip


def pillows(frames, name, argument):
    """One operation of timm's on every frame."""
    options = {"resample": Image.Resampling.BICUBIC, "fillcolor": (128, 128, 128)}
    arguments = () if name in ("AutoContrast", "Equalize", "Invert") else (argument,)
    change = auto_augment.NAME_TO_OP[name]
    return np.stack([np.asarray(change(Image.fromarray(f), *arguments, **options)) for f in frames])


def note(name, noted, *arguments, **_):
    return [*noted, (name, float(*arguments))]


def recorded(description, key):
    """What timm itself draws: names and arguments of what it would do to a picture."""
    transform = auto_augment.rand_augment_transform(description, dict(BICUBIC))
    for op in transform.ops:
        op.aug_fn = partial(note, op.name.removesuffix("Increasing"))
    words = np.random.SeedSequence(key).generate_state(6)
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        random.seed(words[:2].tobytes())
        np.random.seed(words[2:4])  # noqa: NPY002
        return transform([])
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


@pytest.mark.parametrize("description", [PUBLISHED, "rand-m9-n2", "rand-m5-n3-mstd101-p0.8-inc1"])
def test_the_draws_are_timms(description):
    met = set()
    for key in range(200):
        ours = draw_operations(description, 3, key)
        assert [tuple(one) for one in ours] == recorded(description, [3, key])
        met |= {name for name, _ in ours}
    assert met == KNOWN and len(met) == 15


@pytest.mark.parametrize(
    ("name", "share"),
    [*product(POINTWISE, (0.25, 1.0)), *product(MOVES, (0.0, 0.31, -1.0))],
)
def test_operations_are_pillows_to_the_last_bit_and_moves_within_a_level(name, share):
    strongest = POINTWISE.get(name, 21.7 if name == "Rotate" else 0.3)
    argument = math.ceil(strongest * share) if isinstance(strongest, int) else strongest * share
    flat = np.full((2, 12, 9, 3), (100, 7, 100), np.uint8)
    for frames in (pictures(), flat):
        found = apply_operations(frames, [Operation(name, float(argument))]).astype(int)
        difference = abs(found - pillows(frames, name, argument))
        if name in POINTWISE or frames is flat:
            assert difference.max() == 0
        else:
            assert difference.max() <= 1 and (difference > 0).mean() < 0.01


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.data())
def test_several_operations_are_one_after_the_other_and_a_part_is_that_part(key, data):
    """Each alone is Pillow's, and the draws are timm's; what was given stays."""
    frames = pictures(2, 24, 30, key)
    before = frames.copy()
    operations = draw_operations("rand-m7-n6-mstd0.5-inc1-p0.9", key)
    whole = apply_operations(frames, operations)
    each = reduce(lambda done, operation: apply_operations(done, [operation]), operations, frames)
    assert np.array_equal(whole, each)
    top, left = data.draw(st.integers(0, 23)), data.draw(st.integers(0, 29))
    height, width = data.draw(st.integers(1, 24 - top)), data.draw(st.integers(1, 30 - left))
    part = apply_operations(frames, operations, Box(top, left, height, width))
    assert np.array_equal(part, whole[:, top : top + height, left : left + width])
    assert np.array_equal(frames, before)


@pytest.mark.parametrize("wrong", ["augmix-m3", "rand-m7-t3a", "rand-zz3", "rand-{0}"])
def test_what_is_no_randaugment_is_refused(wrong):
    with pytest.raises(ValueError, match=r"rand-m7-n4-mstd0\.5-inc1"):
        draw_operations(wrong, 0)


# --- pre-training ---


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(*shape):
    return rng().integers(0, 256, shape, dtype=np.uint8)


@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 6), st.integers(0, 9))
def test_clip_indices_stop_before_the_last_frame_as_the_official_ones(length, count, stride, seed):
    chosen = clip_indices(length, count, stride, rng(seed))
    room = max(length - count * stride, 0)
    assert chosen[0] == (int(rng(seed).integers(room + 1)) if room else 0)
    frame, last = int(chosen[0]), length - 2
    for found in chosen:
        assert found == frame
        frame += stride if frame + stride <= last else 0


def test_clip_indices_lie_in_the_middle_without_a_seed_and_refuse_numbers_below_one():
    assert clip_indices(70).tolist() == list(range(3, 67, 4))
    for name, wrong in {
        "num_video_frames": (0, 1, 1),
        "num_frames": (9, 0, 1),
        "stride": (9, 1, 0),
    }.items():
        with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
            clip_indices(*wrong)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 10_000))
def test_crops_lie_inside_the_frame(height, width, seed):
    for box in (multi_scale_box(height, width, 160, rng(seed)), centre_square(height, width)):
        assert min(box.top, box.left) >= 0 and min(box.height, box.width) >= 1
        assert box.top + box.height <= height and box.left + box.width <= width


def test_crops_take_neighbouring_scales_and_all_13_places():
    boxes = {multi_scale_box(400, 600, 160, rng(seed)) for seed in range(3000)}
    sides = [int(400 * scale) for scale in CROP_SCALES]
    shapes = {(box.height, box.width) for box in boxes}
    assert shapes == {(h, w) for i, h in enumerate(sides) for w in sides[max(i - 1, 0) : i + 2]}
    small = {(box.top, box.left) for box in boxes if (box.height, box.width) == (264, 264)}
    assert small == {(136 // 4 * down, 336 // 4 * right) for down, right in CROP_PLACES}
    assert len(CROP_PLACES) == 13
    tops = {multi_scale_box(160, 160, 160, rng(seed)) for seed in range(2000)}
    assert {box.top for box in tops if box.height == 105} == {0, 13, 26, 39, 52}, "not 13.75"
    for short, sides in ((182, {182, 160, 136, 120}), (159, {159, 139, 119, 104})):
        found = {multi_scale_box(short, short, 160, rng(seed)).height for seed in range(300)}
        assert found == sides, "the clip's side where it nearly is, and fits"


def test_portrait_squares_lie_above_the_middle():
    assert centre_square(100, 180) == (0, 40, 100, 100)
    assert centre_square(180, 100) == (20, 0, 100, 100)


def test_one_crop_serves_all_frames_and_the_same_seed_gives_it_again():
    frames = np.repeat(noise(1, 40, 60, 3), 3, axis=0)
    clip = vary_clip(frames, 24, rng(1)).numpy()
    assert clip.shape == (3, 24, 24, 3) and (clip == clip[0]).all()
    np.testing.assert_array_equal(clip, vary_clip(frames, 24, rng(1)))
    assert not np.array_equal(clip, vary_clip(frames, 24, rng(2)))


@pytest.mark.parametrize("box", [Box(0, 0, 60, 90), Box(7, 11, 41, 33), Box(3, 5, 20, 25)])
def test_frames_are_resized_as_pillow_resizes_each(box):
    frames = crop_and_resize(noise(3, 9, 9, 3), Box(0, 0, 9, 9), 90, 90)[:, :60]
    found = crop_and_resize(frames, box, 40, 30)
    for frame, ours in zip(frames, found, strict=True):
        cut = frame[box.top : box.top + box.height, box.left : box.left + box.width]
        theirs = Image.fromarray(cut).resize((30, 40), Image.Resampling.BILINEAR)
        differences = abs(ours.astype(int) - np.asarray(theirs))
        assert differences.max() <= 1 and (differences > 0).mean() < 0.1
    np.testing.assert_array_equal(crop_and_resize(frames, Box(0, 0, 60, 90), 60, 90), frames)


def test_the_mirror_and_floats_of_a_batch_keep_every_value():
    frames = noise(2, 3, 4, 5, 3)
    floats = to_floats(torch.stack([to_bytes(mirror(clip)) for clip in frames]))
    assert floats.shape == (2, 3, 3, 4, 5) and floats.is_contiguous()
    clip = to_tensor(frames[1])
    assert torch.equal(floats.flip(-1)[1], clip) and clip.is_contiguous()
    np.testing.assert_array_equal((clip * 255).round().permute(1, 2, 3, 0).numpy(), frames[1])


def test_colours_change_as_torchvision_changes_those_of_each_frame():
    clip = to_tensor(noise(3, 9, 7, 3))
    draws = rng(1)
    frames, (b, c, s) = clip.transpose(0, 1), (1 + 0.5 * draws.uniform(-1, 1, 3)).tolist()
    frames = v2.adjust_saturation(v2.adjust_contrast(v2.adjust_brightness(frames, b), c), s)
    balance = torch.from_numpy(1 + 0.5 / 3 * draws.uniform(-1, 1, (3, 1, 1))).float()
    expected = (frames * balance).clamp(0, 1).transpose(0, 1)
    found = jitter_colours(torch.stack([clip, clip]), 0.5, [rng(1), rng(2)])
    torch.testing.assert_close(found[0], expected, rtol=0, atol=2e-6)
    assert not torch.equal(*found) and torch.equal(jitter_colours(clip[None], 0.0, []), clip[None])
    grey = jitter_colours(clip[None], 0.5, [rng(1)], grey=1.0)
    torch.testing.assert_close(grey, grey.mean(1, keepdim=True).expand_as(grey))
    assert grey.std() > 0.1 and not torch.equal(grey, clip[None])
    with pytest.raises(ValueError, match="strength=2"):
        jitter_colours(clip[None], 2.0, [rng(1)])


def test_a_tilt_turns_all_frames_alike_and_keeps_the_middle():
    clip = np.repeat(noise(1, 33, 33, 3), 3, axis=0)
    turned = tilt_clip(clip, 20.0, rng(1))
    assert turned.shape == clip.shape and (turned == turned[0]).all()
    assert (turned[:, 16, 16] == clip[:, 16, 16]).all() and (turned != clip).any()
    assert tilt_clip(clip, 0.0, rng(1)) is clip


def test_a_warp_moves_places_smoothly_all_frames_alike():
    ramp = np.stack(np.broadcast_arrays(np.arange(64)[:, None], np.arange(64), 0), -1)
    clip = np.repeat(ramp.astype(np.uint8)[None], 3, axis=0)
    bent = tilt_clip(clip, 0.0, rng(2), warp=0.05)
    assert bent.shape == clip.shape and (bent == bent[0]).all()
    inner = (bent[0].astype(int) - ramp)[4:-4, 4:-4, :2]  # beyond the border: a mirror
    assert 1 <= np.abs(inner).max() <= 1.2 * 0.05 * 64 + 1
    assert max(np.abs(np.diff(inner, axis=axis)).max() for axis in (0, 1)) <= 1
    aslant, same = tilt_clip(clip, 15.0, rng(3)), tilt_clip(clip, 15.0, rng(3), warp=1e-9)
    assert np.abs(aslant.astype(int) - same)[:, 8:-8, 8:-8].max() <= 1


def test_blended_clips_are_between_their_two_and_others_untouched():
    clips = torch.rand(6, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert blend_clips(clips, 0.0, [rng(i) for i in range(6)]) is clips
    blended = blend_clips(clips, 0.5, [rng(i) for i in range(6)])
    weights = (blended - clips.flip(0)) / (clips - clips.flip(0))
    for weight in weights.double():
        assert weight.std() < 1e-3 and 0.299 < weight.mean() < 1.001
    assert 0 < (weights.flatten(1).mean(1) < 0.99).sum() < 6
    assert torch.equal(blended, blend_clips(clips, 0.5, [rng(i) for i in range(6)]))
