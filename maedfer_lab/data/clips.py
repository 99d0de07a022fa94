"""From a video to a clip: which frames, which crop, what size; all on uint8 frames (T, H, W, 3)."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

CROP_SCALES = (1.0, 0.875, 0.75, 0.66)
MAX_DISTORT = 1  # height and width may differ by this many steps of CROP_SCALES
# Where a crop may lie, in quarters of the free room (down, right): 13 of the 5 x 5 places, namely
# corners, middles of the edges, the centre, and the four half-way between centre and corner.
CROP_PLACES = tuple((d, r) for d in range(5) for r in range(5) if (d % 2 == r % 2))
PORTRAIT_LIFT = 0.25  # share of a portrait video's surplus height that is cut off above the square


class Box(NamedTuple):
    """A rectangle of pixels: rows ``top`` to ``top + height``, columns ``left`` to ..."""

    top: int
    left: int
    height: int
    width: int


def check_counts(**counts: int) -> None:
    """Raise, with its name, for a count below 1."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")


def clip_indices(
    num_video_frames: int,
    num_frames: int = 16,
    stride: int = 4,
    rng: np.random.Generator | None = None,
) -> Int[np.ndarray, " T"]:
    """Choose the frames of one clip: ``num_frames`` frames, ``stride`` apart.

    The clip spans ``num_frames * stride`` frames; its start is uniform over all places where the
    span fits, or in the middle of them without ``rng``. A video shorter than the span starts at 0
    and the last frame that whole strides reach is repeated; one frame gives a still clip.

    *Official:* the same rule for pre-training (16 frames, stride 4, start in [0, L - 64]).

    Raises:
        ValueError: one of the numbers is below 1.
    """
    check_counts(num_video_frames=num_video_frames, num_frames=num_frames, stride=stride)
    last_start = max(num_video_frames - num_frames * stride, 0)
    start = last_start // 2 if rng is None else int(rng.integers(last_start + 1))
    reachable = (num_video_frames - 1 - start) // stride
    return start + stride * np.minimum(np.arange(num_frames), reachable)


def multi_scale_box(
    height: int, width: int, rng: np.random.Generator, min_scale: float = 0.66
) -> Box:
    """Draw a crop: two neighbouring scales of the short side, and one of 13 places.

    *Official:* scales (1, .875, .75, .66), ``max_distort=1``, 13 fixed offsets. ``min_scale``
    leaves the smaller scales out.
    """
    steps = range(sum(scale >= min_scale for scale in CROP_SCALES))
    if not steps:
        raise ValueError(f"min_scale={min_scale} must be at most 1; the reference's is 0.66")
    shapes = [(i, j) for i in steps for j in steps if abs(i - j) <= MAX_DISTORT]
    i, j = shapes[rng.integers(len(shapes))]
    short = min(height, width)
    crop_height = max(int(short * CROP_SCALES[i]), 1)
    crop_width = max(int(short * CROP_SCALES[j]), 1)
    down, right = CROP_PLACES[rng.integers(len(CROP_PLACES))]
    return Box(
        top=(height - crop_height) * down // 4,
        left=(width - crop_width) * right // 4,
        height=crop_height,
        width=crop_width,
    )


def centre_square(height: int, width: int) -> Box:
    """Return the square in which the face most likely is, while no detector has looked.

    Full short side. Landscape: centred. Portrait: a quarter of the surplus height is cut off above
    and three quarters below, since heads stand above the middle of upright phone videos.
    """
    side = min(height, width)
    return Box(
        top=round((height - side) * PORTRAIT_LIFT),
        left=(width - side) // 2,
        height=side,
        width=side,
    )


def crop_and_resize(
    frames: UInt8[np.ndarray, "T H W 3"], box: Box, height_px: int, width_px: int
) -> UInt8[np.ndarray, "T {height_px} {width_px} 3"]:
    """Cut ``box`` out of every frame and resize it with Pillow's bilinear filter.

    Pillow widens the filter when it shrinks (antialiasing); the official code uses it as well.
    """
    area = (box.left, box.top, box.left + box.width, box.top + box.height)
    resized = np.empty((len(frames), height_px, width_px, 3), np.uint8)
    for frame, out in zip(frames, resized, strict=True):
        image = Image.fromarray(frame)
        out[:] = np.asarray(
            image.resize((width_px, height_px), Image.Resampling.BILINEAR, box=area)
        )
    return resized


def multi_scale_crop(
    frames: UInt8[np.ndarray, "T H W 3"],
    size_px: int,
    rng: np.random.Generator,
    min_scale: float = 0.66,
) -> UInt8[np.ndarray, "T {size_px} {size_px} 3"]:
    """Cut one random multi-scale box, the same for all frames, and resize it to a square."""
    box = multi_scale_box(frames.shape[1], frames.shape[2], rng, min_scale)
    return crop_and_resize(frames, box, size_px, size_px)


def tilt_clip(
    frames: UInt8[np.ndarray, "T H W 3"], degrees: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "T H W 3"]:
    """Turn a clip by up to `degrees` about its middle; the corners mirror what is inside.

    For sets of a few people. Not in the reference.
    """
    if degrees == 0:
        return frames
    height, width = frames.shape[1:3]
    turn = cv2.getRotationMatrix2D(
        ((width - 1) / 2, (height - 1) / 2), rng.uniform(-degrees, degrees), 1.0
    )
    border = cv2.BORDER_REFLECT_101
    return np.stack([cv2.warpAffine(f, turn, (width, height), borderMode=border) for f in frames])


def centre_square_crop(
    frames: UInt8[np.ndarray, "T H W 3"], size_px: int
) -> UInt8[np.ndarray, "T {size_px} {size_px} 3"]:
    """Cut the ``centre_square`` and resize it: the deterministic view of held-out clips."""
    return crop_and_resize(
        frames, centre_square(frames.shape[1], frames.shape[2]), size_px, size_px
    )


def to_tensor(frames: UInt8[np.ndarray, "T H W 3"]) -> Float[Tensor, "3 T H W"]:
    """Turn frames into a float clip (c T H W) in [0, 1]; the model normalises by itself."""
    channels_first = torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2)
    return channels_first.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def jitter_colours(
    clip: Float[Tensor, "3 T H W"], strength: float, rng: np.random.Generator
) -> Float[Tensor, "3 T H W"]:
    """Change brightness, contrast, saturation and white balance, the same for all frames.

    ``strength`` in [0, 1]: factors within 1 +- strength, of each colour within 1 +- strength / 3.
    For sets of a few people, whose skins and walls would be learned by heart. Not in the reference.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength={strength} must lie in [0, 1]; 0 changes nothing, try 0.4")
    if strength == 0:
        return clip
    from torchvision.transforms.v2 import functional

    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3)
    frames = functional.adjust_brightness(clip.transpose(0, 1), brightness)
    frames = functional.adjust_contrast(frames, contrast)
    frames = functional.adjust_saturation(frames, saturation)
    balance = torch.from_numpy(1 + strength / 3 * rng.uniform(-1, 1, (3, 1, 1, 1))).float()
    return (frames.transpose(0, 1) * balance).clamp(0, 1)
