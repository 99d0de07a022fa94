"""RandAugment of a clip against timm and Pillow, frame by frame: the same draws and pixels."""

import math
import random
from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import auto_augment

from maedfer_lab.config import Augment
from maedfer_lab.data.rand_augment import KNOWN, Operation, apply_operations, draw_operations
from maedfer_lab.data.transforms import Box, crop_and_resize

PUBLISHED = Augment().rand_augment
MOVES = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
BICUBIC = {"interpolation": Image.Resampling.BICUBIC}
POINTWISE = {"AutoContrast": 0, "Equalize": 0, "Invert": 0, "Posterize": 2, "Solarize": 77,
             "SolarizeAdd": 77, "Color": 1.63, "Contrast": 1.63, "Brightness": 1.63,
             "Sharpness": 1.63}  # fmt: skip


def clip(frames=3, height=48, width=40, seed=0):
    """Smooth pictures with something in them, all different."""
    coarse = np.random.default_rng(seed).integers(0, 256, (frames, 7, 6, 3), dtype=np.uint8)
    return crop_and_resize(coarse, Box(0, 0, 7, 6), height, width)


def timms(frames, name, argument):
    """One operation of timm's on every frame."""
    options = {"resample": Image.Resampling.BICUBIC, "fillcolor": (128, 128, 128)}
    arguments = () if name in ("AutoContrast", "Equalize", "Invert") else (argument,)
    change = auto_augment.NAME_TO_OP[name]
    return np.stack([np.asarray(change(Image.fromarray(f), *arguments, **options)) for f in frames])


def note(name, told, *arguments, **_):
    return [*told, (name, float(*arguments))]


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
    for frames in (clip(), flat):
        found = apply_operations(frames, [Operation(name, float(argument))]).astype(int)
        difference = abs(found - timms(frames, name, argument))
        if name in POINTWISE or frames is flat:
            assert difference.max() == 0
        else:
            assert difference.max() <= 1 and (difference > 0).mean() < 0.01


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.data())
def test_a_part_of_the_result_is_that_part_and_the_input_stays(key, data):
    frames = clip(2, 24, 30, key)
    before = frames.copy()
    operations = draw_operations("rand-m7-n6-mstd0.5-inc1-p0.9", key)
    whole = apply_operations(frames, operations)
    top, left = data.draw(st.integers(0, 23)), data.draw(st.integers(0, 29))
    height, width = data.draw(st.integers(1, 24 - top)), data.draw(st.integers(1, 30 - left))
    part = apply_operations(frames, operations, Box(top, left, height, width))
    assert np.array_equal(part, whole[:, top : top + height, left : left + width])
    assert np.array_equal(frames, before)


@pytest.mark.parametrize("key", range(25))
def test_whole_draws_give_the_clip_that_timm_gives_frame_by_frame(key):
    operations = draw_operations(PUBLISHED, key)
    frames = expected = clip()
    for name, argument in operations:
        is_whole = name in ("Posterize", "Solarize", "SolarizeAdd")
        expected = timms(expected, name, int(argument) if is_whole else argument)
    difference = abs(apply_operations(frames, operations).astype(int) - expected)
    if any(name in MOVES for name, _ in operations):  # a level off may be spread by what follows
        assert (difference > 1).mean() < 0.01
    else:
        assert difference.max() == 0


@pytest.mark.parametrize("wrong", ["augmix-m3", "rand-m7-t3a", "rand-zz3"])
def test_what_is_no_randaugment_is_refused(wrong):
    with pytest.raises(ValueError, match=r"rand-m7-n4-mstd0\.5-inc1"):
        draw_operations(wrong, 0)
