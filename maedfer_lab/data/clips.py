"""From a video to a clip: which frames, which crop, what size; all on uint8 frames (T, H, W, 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

BLENDED = 0.3  # least weight of a clip that is mixed with another
LATTICE = 4  # points a side by which a clip is bent
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
    frames: UInt8[np.ndarray, "T H W 3"],
    box: Box,
    height_px: int,
    width_px: int,
    *,
    exact: bool = False,
) -> UInt8[np.ndarray, "T {height_px} {width_px} 3"]:
    """Cut ``box`` out of every frame and resize it with Pillow's bilinear filter.

    That filter widens when it shrinks (antialiasing); the official code uses it as well. Torch has
    it for all frames at once, seven times as fast, and a level off in one value of 1,000.

    exact: Pillow itself, for tests, whose numbers should be those of the official code.
    """
    if exact:
        area = (box.left, box.top, box.left + box.width, box.top + box.height)
        shrunk = np.empty((len(frames), height_px, width_px, 3), np.uint8)
        for frame, out in zip(frames, shrunk, strict=True):
            size, bilinear = (width_px, height_px), Image.Resampling.BILINEAR
            out[:] = np.asarray(Image.fromarray(frame).resize(size, bilinear, box=area))
        return shrunk
    return resize(_cut(frames, box), height_px, width_px)


def resize(
    frames: UInt8[np.ndarray, "T H W 3"], height_px: int, width_px: int, antialias: bool = True
) -> UInt8[np.ndarray, "T {height_px} {width_px} 3"]:
    """Resize every frame bilinearly, rounded to whole levels.

    antialias: look at all the pixels that make a smaller one, as Pillow does; not at four of them.
    """
    if frames.shape[1:3] == (height_px, width_px):
        return frames.copy()
    if not antialias:  # OpenCV rounds more closely than torch here, in two thirds of its time
        resized = np.empty((len(frames), height_px, width_px, 3), np.uint8)
        for frame, out in zip(frames, resized, strict=True):
            cv2.resize(frame, (width_px, height_px), dst=out, interpolation=cv2.INTER_LINEAR)
        return resized
    shrunk = functional.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2), (height_px, width_px), mode="bilinear",
        antialias=True,
    )  # fmt: skip
    return np.ascontiguousarray(shrunk.permute(0, 2, 3, 1).numpy())


def _cut(frames: np.ndarray, box: Box) -> np.ndarray:
    return frames[:, box.top : box.top + box.height, box.left : box.left + box.width]


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
    frames: UInt8[np.ndarray, "T H W 3"],
    degrees: float,
    rng: np.random.Generator,
    warp: float = 0.0,
) -> UInt8[np.ndarray, "T H W 3"]:
    """Turn a clip by up to `degrees` about its middle and bend it, the same for all frames.

    warp: share of the side by which each point of a coarse lattice may move, with everything
        between them following smoothly: other proportions, as those of another face.

    What comes from beyond the border mirrors what is inside. For sets of a few people. Not in the
    reference.
    """
    if degrees == 0 and warp == 0:
        return frames
    height, width = frames.shape[1:3]
    turn = cv2.getRotationMatrix2D(
        ((width - 1) / 2, (height - 1) / 2), rng.uniform(-degrees, degrees), 1.0
    )
    border = cv2.BORDER_REFLECT_101
    if warp == 0:
        turned = [cv2.warpAffine(f, turn, (width, height), borderMode=border) for f in frames]
        return np.stack(turned)
    moves = rng.uniform(-warp, warp, (LATTICE, LATTICE, 2)) * (width, height)
    moves = cv2.resize(moves.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    back = cv2.invertAffineTransform(turn).astype(np.float32)
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    x, y = np.moveaxis(cv2.transform(places, back) + moves, -1, 0)
    return np.stack([cv2.remap(f, x, y, cv2.INTER_LINEAR, borderMode=border) for f in frames])


def centre_square_crop(
    frames: UInt8[np.ndarray, "T H W 3"], size_px: int
) -> UInt8[np.ndarray, "T {size_px} {size_px} 3"]:
    """Cut the ``centre_square`` and resize it: the deterministic view of held-out clips."""
    return crop_and_resize(
        frames, centre_square(frames.shape[1], frames.shape[2]), size_px, size_px
    )


def to_tensor(frames: UInt8[np.ndarray, "T H W 3"]) -> Float[Tensor, "3 T H W"]:
    """Turn frames into a float clip (c T H W) in [0, 1]; the model normalises by itself."""
    return to_floats(torch.from_numpy(np.ascontiguousarray(frames)))


def mirror(frames: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
    """Swap left and right."""
    rows = np.ascontiguousarray(frames).reshape(-1, frames.shape[2], 3)
    return cv2.flip(rows, 1).reshape(frames.shape)


def to_bytes(frames: UInt8[np.ndarray, "T H W 3"]) -> UInt8[Tensor, "T H W 3"]:
    """Frames as a training item: a quarter of the floats' size until they are on the device."""
    return torch.from_numpy(np.ascontiguousarray(frames))


def to_floats(frames: UInt8[Tensor, "*b T H W 3"]) -> Float[Tensor, "*b 3 T H W"]:
    """Turn frames, where they are, into float clips (c T H W) in [0, 1]."""
    channels_first = frames.movedim(-1, -4)
    return channels_first.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def jitter_colours(
    clips: Float[Tensor, "b 3 T H W"], strength: float, rngs: Sequence[np.random.Generator]
) -> Float[Tensor, "b 3 T H W"]:
    """Change brightness, contrast, saturation and white balance, the same for all frames.

    ``strength`` in [0, 1]: factors within 1 +- strength, of each colour within 1 +- strength / 3.
    ``rngs``: one for each clip. Contrast is stretched about each frame's mean grey.
    For sets of a few people, whose skins and walls would be learned by heart. Not in the reference.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength={strength} must lie in [0, 1]; 0 changes nothing, try 0.4")
    if strength == 0:
        return clips
    draws = torch.from_numpy(np.stack([rng.uniform(-1, 1, 6) for rng in rngs])).float()
    draws = draws.to(clips.device, non_blocking=True)
    factors = 1 + strength * draws[:, :3, None, None, None, None]
    brightness, contrast, saturation = factors.unbind(1)
    balance = 1 + strength / 3 * draws[:, 3:, None, None, None]
    clips = (clips * brightness).clamp_(0, 1)
    middle = _grey(clips).mean((-2, -1), keepdim=True)
    clips = clips.mul_(contrast).add_((1 - contrast) * middle).clamp_(0, 1)
    clips = clips.mul(saturation).add_((1 - saturation) * _grey(clips)).clamp_(0, 1)
    return clips.mul_(balance).clamp_(0, 1)


def blend_clips(
    clips: Float[Tensor, "b 3 T H W"], share: float, rngs: Sequence[np.random.Generator]
) -> Float[Tensor, "b 3 T H W"]:
    """Mix a `share` of the clips with the clip at the mirrored place of the batch.

    ``rngs``: one for each clip; it draws whether, and with which weight in [0.3, 1], the same for
    all frames. Not in the reference.
    """
    if share == 0:
        return clips
    draws = np.array([(rng.random(), rng.uniform(BLENDED, 1)) for rng in rngs])
    weights = torch.from_numpy(np.where(draws[:, 0] < share, draws[:, 1], 1.0)).float()
    weights = weights.to(clips.device, non_blocking=True).view(-1, 1, 1, 1, 1)
    return torch.lerp(clips.flip(0), clips, weights)


def _grey(clips: Tensor) -> Tensor:
    """Brightness (b 1 T H W), weighed by how bright each colour seems."""
    red, green, blue = clips.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue
