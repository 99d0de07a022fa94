from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maedfer_lab.config import TargetConfig
from maedfer_lab.method import targets
from maedfer_lab.method.grid import Grid, grid_of, patchify, take

TUBELET = (2, 4, 4)


def random_clip(frames=8, side=16, num=2):
    return torch.rand(num, 3, frames, side, side, generator=torch.Generator().manual_seed(0))


@given(
    st.sampled_from(["cube", "pixel", "imagenet"]),
    st.booleans(),
    st.sampled_from([2, 4, 8]),
    st.sampled_from([1.0, 4.0]),
)
def test_inverse_gives_the_clip_back(units, motion, group, scale):
    config = TargetConfig(units, motion, group, motion_scale=scale)
    clip = random_clip()
    statistics = targets.cube_statistics(patchify(clip, TUBELET)) if units == "cube" else None
    target = targets.make_target(clip, TUBELET, config)
    back = targets.invert_target(target, grid_of(clip, TUBELET), TUBELET, config, statistics)
    assert (back - clip).abs().max() < 1e-6


def test_targets_are_the_papers_even_frames_and_differences():
    clip = random_clip()
    config = TargetConfig("pixel")
    target = targets.make_target(clip, TUBELET, config)
    appearance, motion = target.chunk(2, -1)
    even, odd = clip[:, :, ::2], clip[:, :, 1::2]
    assert torch.equal(appearance, patchify(even, (1, 4, 4)))
    assert torch.allclose(motion, patchify(odd - even, (1, 4, 4)))


def test_cube_units_are_official_ones():
    """Cubes are normalised by both frames together, then differenced."""
    clip = random_clip(num=1)
    cube = clip[0, 1, :2, :4, :4]
    normed = (cube - cube.mean()) / (cube.std(unbiased=True) + 1e-6)
    target = targets.make_target(clip, TUBELET, TargetConfig())[0, 0].view(2, 4, 4, 3)[..., 1]
    assert torch.allclose(target[0], normed[0], atol=1e-6)
    assert torch.allclose(target[1], normed[1] - normed[0], atol=1e-6)


@given(st.floats(0, 1))
def test_loss_weighs_appearance_and_motion(weight):
    clip, config = random_clip(), TargetConfig("pixel", motion_weight=weight)
    grid = grid_of(clip, TUBELET)
    masked = torch.arange(4, 20).expand(2, -1)
    target = take(targets.make_target(clip, TUBELET, config), masked)
    loss = targets.reconstruction_loss(
        torch.zeros_like(target), target, masked, grid, TUBELET, config
    )
    appearance, motion = target.square().chunk(2, -1)
    assert torch.allclose(loss.appearance, appearance.mean())
    assert torch.allclose(loss.motion, motion.mean())
    assert torch.allclose(loss.total, (1 - weight) * appearance.mean() + weight * motion.mean())
    equal = replace(config, motion_weight=0.5)  # the plain mean
    loss = targets.reconstruction_loss(
        torch.zeros_like(target), target, masked, grid, TUBELET, equal
    )
    assert torch.allclose(loss.total, target.square().mean())


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="cube, pixel, imagenet"):
        TargetConfig("normalised")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="motion_weight=2"):
        TargetConfig(motion_weight=2)
    with pytest.raises(ValueError, match="motion_group=3"):
        targets.make_target(random_clip(), TUBELET, TargetConfig(motion_group=3))
    with pytest.raises(ValueError, match="cube_statistics"):
        target = torch.zeros(1, Grid(4, 4, 4).n, 96)
        targets.invert_target(target, Grid(4, 4, 4), TUBELET, TargetConfig())
