"""RandAugment of a clip, drawn as timm draws it, and done on all its uint8 frames at once.

Draws, tables and blends are timm's and Pillow's to the last bit, moves to a level now and then.
Ours because a clip from shards then takes 7 ms of a core, where it takes 14 with torchvision's
(bilinear, so not the published ones) and 21 with timm's: a chain of tables is one table, a move one
list of places and weights for all frames, and only what the crop will show is computed.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch.nn import functional

SHIFT = 0.45  # moves go up to this share of the picture
FULL = 10.0  # the level at which an operation is strongest
LEVELS = np.arange(256)
OUTSIDE = 128  # the grey of what lies outside the picture
REACH = 2.5  # pixels that the filter looks around itself, with half of one to be safe
NUDGE = 5e-4  # levels: sums that are whole up to float32's rounding are not rounded down
_LOCAL = threading.local()  # its `chooser`: to make one takes longer than all other draws
# Of red, green and blue, in 65,536ths, and what rounds their sum.
GREY = np.array([[19595, 38470, 7471, 2**15]], np.float32)


class Box(NamedTuple):
    """A rectangle of pixels: rows ``top`` to ``top + height``, columns ``left`` to ..."""

    top: int
    left: int
    height: int
    width: int


class Operation(NamedTuple):
    """One operation: its name as in timm without "Increasing", and its strength.

    argument: degrees (Rotate), share of the side (Shear..., Translate...), bits that stay
    (Posterize), threshold (Solarize), what is added (SolarizeAdd), factor with 1 for no change
    (Color, Contrast, Brightness, Sharpness), else 0.
    """

    name: str
    argument: float


def draw_operations(description: str, *key: int) -> tuple[Operation, ...]:
    """The operations of one clip: timm's draws, in its order, from generators that `key` seeds.

    Raises ValueError if `description` is not RandAugment's, or asks for more than its 15.
    """
    drawn = timms(description)
    words = np.random.SeedSequence(key).generate_state(6)
    rng = random.Random(words[:2].tobytes())
    if not hasattr(_LOCAL, "chooser"):
        _LOCAL.chooser = np.random.RandomState(0)
    legacy, shares = _LOCAL.chooser, drawn.choice_weights
    legacy.seed(words[2:4])
    numbers = legacy.choice(len(drawn.ops), drawn.num_layers, replace=shares is None, p=shares)
    operations = []
    for op in (drawn.ops[number] for number in numbers):
        if op.prob < 1 and rng.random() > op.prob:
            continue
        level, spread = op.magnitude, op.magnitude_std
        if spread > 0:
            level = rng.uniform(0, level) if math.isinf(spread) else rng.gauss(level, spread)
        level = max(0.0, min(level, op.magnitude_max or FULL)) / FULL
        argument = float(_argument(op, level, rng))
        operations.append(Operation(op.name.removesuffix("Increasing"), argument))
    return tuple(operations)


@lru_cache(maxsize=8)
def timms(description: str) -> Any:
    """timm's own reading of a description such as "rand-m7-n4-mstd0.5-inc1"."""
    from timm.data.auto_augment import rand_augment_transform

    wrong, like = f"rand_augment={description!r}", "as in 'rand-m7-n4-mstd0.5-inc1'"
    try:
        found = rand_augment_transform(description, {"translate_pct": SHIFT})
    except (AssertionError, ValueError, KeyError) as error:
        raise ValueError(f"{wrong} must be a RandAugment, {like}") from error
    if unknown := {op.name.removesuffix("Increasing") for op in found.ops} - KNOWN:
        what = f"asks for {', '.join(sorted(unknown))}; leave out the part that begins with t"
        raise ValueError(f"{wrong} {what}, {like}")
    return found


def _argument(op: Any, level: float, rng: random.Random) -> float | int:
    """The strength of an operation at `level` in [0, 1]; half of those with a sign lose it."""
    name = op.name.removesuffix("Increasing")
    rises = name != op.name
    if name in PLAIN:
        return 0
    if name in STEPS:
        strength, most, top = STEPS[name]
        value = min(most, int(level * strength))
        return top - value if rises else value
    reach = MOVES.get(name)
    if reach is None and not rises:
        return level * 1.8 + 0.1
    value = level * (reach or 0.9)
    value = -value if rng.random() > 0.5 else value
    return value if reach else max(0.1, 1 + value)


def apply_operations(
    clip: UInt8[np.ndarray, "T H W 3"], operations: Sequence[Operation], box: Box | None = None
) -> UInt8[np.ndarray, "T h w 3"]:
    """The part `box` of the clip after `operations`. *Official:* per frame; the same pixels."""
    height, width = clip.shape[1:3]
    whole = Box(0, 0, height, width)
    parts = [box or whole]  # of the picture, before each operation, from the last to the first
    for operation in reversed(operations):
        parts.append(_needed(operation, parts[-1], height, width))
    parts.reverse()
    part, tables = _cut(clip, whole, parts[0]), None
    for operation, have, want in zip(operations, parts, parts[1:], strict=False):
        name, argument = operation
        if name in FIXED:
            table = np.clip(FIXED[name](argument), 0, 255).astype(np.uint8)
            tables = table if tables is None else table[tables]
            continue
        part, tables = _look_up(part, tables), None
        if name in OWN:
            tables = OWN[name](part, argument)
            part = _cut(part, have, want)
        elif name == "Color":
            part = _blend_frames(part, lambda frame: cv2.merge([_grey(frame)] * 3), argument)
        elif name == "Sharpness":
            smooth = partial(_smooth, have=have, whole=whole)
            part = _cut(_blend_frames(part, smooth, argument), have, want)
        else:
            part = move(part, _matrix(operation, height, width), have, want, whole)
    return _look_up(part, tables)


def _needed(operation: Operation, want: Box, height: int, width: int) -> Box:
    """The part of the picture that an operation must see to give `want`."""
    name = operation.name
    if name in OWN:
        return Box(0, 0, height, width)
    if name in FIXED or name == "Color":
        return want
    top, bottom, left, right = want.top, want.top + want.height, want.left, want.left + want.width
    if name == "Sharpness":
        top, left = max(top - 1, 0), max(left - 1, 0)
        bottom, right = min(bottom + 1, height), min(right + 1, width)
    else:
        a, b, c, d, e, f = _matrix(operation, height, width)
        corners = [(x, y) for x in (left, right) for y in (top, bottom)]
        left, right = _range([a * x + b * y + c for x, y in corners], width)
        top, bottom = _range([d * x + e * y + f for x, y in corners], height)
    return Box(top, left, bottom - top, right - left)


def _range(places: Sequence[float], size: int) -> tuple[int, int]:
    """Where a move's filter looks."""
    first = min(max(math.floor(min(places) - REACH), 0), size - 1)
    return first, max(min(math.ceil(max(places) + REACH), size), first + 1)


def _cut(clip: np.ndarray, have: Box, want: Box) -> np.ndarray:
    if have == want:
        return clip
    top, left = want.top - have.top, want.left - have.left
    return np.ascontiguousarray(clip[:, top : top + want.height, left : left + want.width])


def _look_up(clip: np.ndarray, tables: np.ndarray | None) -> np.ndarray:
    """Send every value through a table (256), or each frame's own (T 256), (T 256 3)."""
    if tables is None:
        return clip
    if tables.ndim == 1:
        return cv2.LUT(clip.reshape(-1, clip.shape[2], 3), tables).reshape(clip.shape)
    looked_up = np.empty_like(clip)
    for frame, table, out in zip(clip, tables, looked_up, strict=True):
        cv2.LUT(frame, table[None], dst=out)
    return looked_up


def _blend(base: np.ndarray | int, values: np.ndarray, factor: float) -> np.ndarray:
    """From `base` at 0 over `values` (overwritten) at 1 and beyond, in Pillow's precision."""
    values -= base
    values *= np.float32(factor)
    values += base
    return np.clip(values, 0, 255, out=values)


def _blend_frames(
    clip: np.ndarray, base: Callable[[np.ndarray], np.ndarray], factor: float
) -> np.ndarray:
    """Blend every frame with what `base` makes of it."""
    blended = np.empty_like(clip)
    for frame, out in zip(clip, blended, strict=True):
        np.copyto(out, _blend(base(frame), frame.astype(np.float32), factor), casting="unsafe")
    return blended


def _grey(frame: np.ndarray) -> np.ndarray:
    """Pillow's grey levels; sums below 2 ** 24 are exact in float32."""
    sums = cv2.transform(frame.astype(np.float32), GREY)
    sums *= np.float32(2.0**-16)
    return np.floor(sums, out=sums)


def _smooth(frame: np.ndarray, have: Box, whole: Box) -> np.ndarray:
    """Every pixel's mean with its neighbours, itself five times; the picture's edge stays."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    bottom = have.height - (have.top + have.height == whole.height)
    right = have.width - (have.left + have.width == whole.width)
    inner = np.s_[int(have.top == 0) : bottom, int(have.left == 0) : right]
    smooth = frame.astype(np.float32)
    smooth[inner] = cv2.filter2D(frame, -1, kernel)[inner]
    return smooth


def _auto_contrast(clip: np.ndarray, _: float) -> np.ndarray:
    """Tables (T 256 3) that spread each colour of each frame from 0 to 255."""
    rows = clip.reshape(*clip.shape[:2], -1)
    low, high = (
        pick(pick(rows, axis=1).reshape(len(clip), -1, 3), axis=1, keepdims=True).astype(np.float64)
        for pick in (np.min, np.max)
    )
    scale = 255.0 / np.maximum(high - low, 1)
    levels = LEVELS[None, :, None]
    tables = np.where(high > low, levels * scale - low * scale, levels)
    return np.clip(tables, 0, 255).astype(np.uint8)


def _equalize(clip: np.ndarray, _: float) -> np.ndarray:
    """Tables (T 256 3) that make all levels of each colour about equally frequent."""
    counts = np.empty((len(clip), 3, 256), np.float32)  # exact below 2 ** 24 pixels
    for frame, out in zip(clip, counts, strict=True):
        for colour in range(3):
            cv2.calcHist([frame], [colour], None, [256], [0, 256], hist=out[colour])
    counts = counts.astype(np.int32)
    below = counts.cumsum(-1, dtype=np.int32)
    highest = 255 - (counts[..., ::-1] > 0).argmax(-1, keepdims=True)
    step = (below[..., -1:] - np.take_along_axis(counts, highest, -1)) // 255
    below -= counts
    spread = np.minimum((step // 2 + below) // np.maximum(step, 1), 255)
    tables = np.where(step > 0, spread, LEVELS).astype(np.uint8)
    return np.ascontiguousarray(tables.transpose(0, 2, 1))


def _contrast(clip: np.ndarray, factor: float) -> np.ndarray:
    """Tables (T 256) that stretch levels about each frame's mean grey."""
    means = [[int(cv2.mean(_grey(frame))[0] + 0.5)] for frame in clip]
    levels = np.tile(LEVELS.astype(np.float32), (len(clip), 1))
    return _blend(np.array(means, np.float32), levels, factor).astype(np.uint8)


def _matrix(operation: Operation, height: int, width: int) -> tuple[float, ...]:
    """(a, b, c, d, e, f): the pixel at (x, y) comes from (ax + by + c, dx + ey + f)."""
    name, by = operation
    if name != "Rotate":
        place, value = {"ShearX": (1, by), "ShearY": (3, by), "TranslateXRel": (2, by * width),
                        "TranslateYRel": (5, by * height)}[name]  # fmt: skip
        return tuple(value if i == place else float(i in (0, 4)) for i in range(6))
    angle = -math.radians(by % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2  # the middle stays
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


def move(
    clip: UInt8[np.ndarray, "T h w 3"], matrix: Sequence[float], have: Box, want: Box, whole: Box
) -> UInt8[np.ndarray, "T H W 3"]:
    """The part `want` of moved pictures, from their part `have`, with Pillow's bicubic filter.

    matrix: (a, b, c, d, e, f); the pixel whose middle is (x, y) shows (ax + by + c, dx + ey + f).
    whole: the picture's own box; outside is grey 128, its edge is repeated for the filter.

    Places and weights are the same in all frames: with the frames side by side in memory that is
    torch's `embedding_bag`, ten times as fast as Pillow (1.6 ms for 16 frames of 160 x 160).
    """
    a, b, c, d, e, f = matrix
    x = np.arange(want.left, want.left + want.width) + 0.5
    y = np.arange(want.top, want.top + want.height)[:, None] + 0.5
    across, down = a * x + b * y + c, d * x + e * y + f
    outside = (across < 0) | (across >= whole.width) | (down < 0) | (down >= whole.height)
    columns, of_columns = _taps(across - 0.5, whole.width, have.left, have.width)
    rows, of_rows = _taps(down - 0.5, whole.height, have.top, have.height)
    places = rows[:, None] * np.int32(have.width) + columns[None]
    sums = functional.embedding_bag(
        torch.from_numpy(_taps_last(places)),
        _side_by_side(clip),
        mode="sum",
        per_sample_weights=torch.from_numpy(_taps_last(of_rows[:, None] * of_columns[None])),
    )
    # OpenCV rounds to the nearest level, Pillow down.
    moved = cv2.add(sums.numpy(), NUDGE - 0.5, dtype=cv2.CV_8U)  # type: ignore[call-overload]
    moved[outside.ravel()] = OUTSIDE
    words = np.ascontiguousarray(cv2.transpose(moved.view(np.int32)))
    pictures = words.view(np.uint8).reshape(-1, want.width, 4)
    return cv2.cvtColor(pictures, cv2.COLOR_RGBA2RGB).reshape(-1, want.height, want.width, 3)


def _taps(places: np.ndarray, size: int, first: int, held: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (4 H W) around `places`, counted from `first`, and weights; one if all are whole."""
    low = np.floor(places)
    t = (places - low).astype(np.float32)
    if not t.any():
        around, weights = low[None], np.ones((1, *places.shape), np.float32)
    else:
        around = low + np.arange(-1.0, 3.0)[:, None, None]
        square, cube = t * t, t * t * t
        weights = np.stack(
            [2 * square - t - cube, 1 - 2 * square + cube, t + square - cube, cube - square]
        )
    inside = np.clip(around, 0, size - 1) - first
    return np.clip(inside, 0, held - 1).astype(np.int32), weights


def _taps_last(taps: np.ndarray) -> np.ndarray:
    """From (t t H W) to (H * W, t * t)."""
    return cv2.transpose(taps.reshape(taps.shape[0] * taps.shape[1], -1))


def _side_by_side(clip: np.ndarray) -> torch.Tensor:
    """A row of floats for every place of the picture: four for each frame, the last unused."""
    frames, height, width, _ = clip.shape
    words = cv2.cvtColor(clip.reshape(-1, width, 3), cv2.COLOR_RGB2RGBA).view(np.int32)
    rows = cv2.transpose(words.reshape(frames, height * width))
    return torch.from_numpy(rows.reshape(height * width, frames).view(np.uint8)).float()


# Tables (256) that do not depend on the picture.
FIXED: dict[str, Callable[[float], np.ndarray]] = {
    "Invert": lambda _: 255 - LEVELS,
    "Posterize": lambda bits: LEVELS & ~(2 ** (8 - int(bits)) - 1),
    "Solarize": lambda threshold: np.where(LEVELS < threshold, LEVELS, 255 - LEVELS),
    "SolarizeAdd": lambda add: np.where(LEVELS < 128, np.minimum(LEVELS + add, 255), LEVELS),
    "Brightness": lambda factor: _blend(0, LEVELS.astype(np.float32), factor),
}
# Tables (T 256) or (T 256 3) of each frame's own, from the whole of it.
OWN: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Contrast": _contrast,
}
PLAIN = ("AutoContrast", "Equalize", "Invert")  # operations without a strength
# Whole numbers: how many at full strength, at most, and from what they are taken where it rises.
STEPS = {"Posterize": (4, 99, 4), "Solarize": (256, 256, 256), "SolarizeAdd": (110, 128, 0)}
MOVES = {"Rotate": 30, "ShearX": 0.3, "ShearY": 0.3, "TranslateXRel": SHIFT, "TranslateYRel": SHIFT}
KNOWN = {*FIXED, *OWN, *MOVES, "Color", "Sharpness"}
