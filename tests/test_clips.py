import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as v2

from maedfer_lab.data.folder import vary_clip
from maedfer_lab.data.transforms import (
    CROP_PLACES,
    CROP_SCALES,
    Box,
    blend_clips,
    centre_square,
    clip_indices,
    crop_and_resize,
    jitter_colours,
    mirror,
    multi_scale_box,
    tilt_clip,
    to_bytes,
    to_floats,
    to_tensor,
)


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


def test_clip_indices_by_hand():
    assert clip_indices(1, 16, 4).tolist() == [0] * 16
    # 4 k + 1 frames: never the last one
    assert clip_indices(33, 16, 4).tolist() == [*range(0, 29, 4), *[28] * 8]
    assert clip_indices(70).tolist() == list(range(3, 67, 4))
    assert {int(clip_indices(70, rng=rng(seed))[0]) for seed in range(200)} == set(range(7))
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
