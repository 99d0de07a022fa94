"""From a video's frames to a training clip: frames, crop, augmentation, mixing.

Clips stay uint8 frames (T, H, W, 3) where they are read; on the device they become floats (c T H W)
in [0, 1], a batch at a time. All that is random follows from a generator or a key such as
(seed, item), so that a clip is the same in every process.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from maedfer_lab.config import Augment, check_counts
from maedfer_lab.data.rand_augment import Box, apply_operations, draw_operations

Range = tuple[float, float]
CROP_SCALES = (1.0, 0.875, 0.75, 0.66)
MAX_DISTORT = 1  # height and width may differ by this many steps of CROP_SCALES
# Where a crop may lie, in quarters of the free room (down, right): 13 of the 5 x 5 places.
CROP_PLACES = tuple((d, r) for d in range(5) for r in range(5) if (d % 2 == r % 2))
SNAP_PX = 3  # a crop whose side is nearer to the clip's than this has the clip's
PORTRAIT_LIFT = 0.25  # share of a portrait video's surplus height that is cut off above the square
BLENDED = 0.3  # least weight of a clip that is mixed with another
LATTICE = 4  # points a side by which a clip is bent
PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, as in the model
ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)  # of the picture; height / width
TRIES = 10  # draws of a rectangle that may not fit
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


def clip_indices(
    num_video_frames: int,
    num_frames: int = 16,
    stride: int = 4,
    rng: np.random.Generator | None = None,
    *,
    to_the_end: bool = False,
) -> Int[np.ndarray, " T"]:
    """Choose the frames of one pre-training clip: ``num_frames`` frames, ``stride`` apart.

    The start is uniform over all places where ``num_frames * stride`` frames fit, or in the middle
    of them without ``rng``. In a shorter video the last frame that strides reach is repeated; the
    very last one is reached only ``to_the_end``. *Official:* the same rule (start in [0, L - 64]).
    Raises ValueError for numbers below 1.
    """
    check_counts(num_video_frames=num_video_frames, num_frames=num_frames, stride=stride)
    last_start = max(num_video_frames - num_frames * stride, 0)
    start = last_start // 2 if rng is None else int(rng.integers(last_start + 1))
    # parity: official indices count from 1, and step only while they stay below the length
    last = num_video_frames - (1 if to_the_end else 2)
    reachable = max(last - start, 0) // stride
    return start + stride * np.minimum(np.arange(num_frames), reachable)


def training_indices(
    num_video_frames: int,
    num_frames: int = 16,
    stride: int = 4,
    rng: np.random.Generator | None = None,
) -> Int[np.ndarray, " T"]:
    """Choose the frames of one training clip as the published fine-tuning does.

    They are spread evenly over ``num_frames * stride`` frames that end at a random one, or lie in
    the middle without ``rng`` (the published validation draws there too): 64 / 15 = 4.27 apart at
    stride 4, where test clips are 4 apart. A video no longer than that gives one frame for every
    ``stride`` frames, and then its last one again and again. *Official:* the same rule; the last
    frame of a longer video is never used. Raises ValueError for numbers below 1.
    """
    check_counts(num_video_frames=num_video_frames, num_frames=num_frames, stride=stride)
    span = num_frames * stride
    if num_video_frames <= span:
        few = np.linspace(0, num_video_frames, num_video_frames // stride)
        last = np.full(num_frames - len(few), num_video_frames)
        return np.concatenate([few, last]).clip(0, num_video_frames - 1).astype(np.int64)
    ends = num_video_frames - span  # span, span + 1, ..., num_video_frames - 1
    end = span + (ends // 2 if rng is None else int(rng.integers(ends)))
    spread = np.linspace(end - span, end, num_frames)
    return spread.clip(end - span, end - 1).astype(np.int64)


def multi_scale_box(
    height: int, width: int, size_px: int, rng: np.random.Generator, min_scale: float = 0.66
) -> Box:
    """Draw a crop for clips of `size_px`: neighbouring scales of the short side, one of 13 places.

    *Official:* the same, sides that nearly are the clip's made equal to it. ``min_scale`` leaves
    the smaller scales out.
    """
    steps = range(sum(scale >= min_scale for scale in CROP_SCALES))
    if not steps:
        raise ValueError(f"min_scale={min_scale} must be at most 1; the reference's is 0.66")
    shapes = [(i, j) for i in steps for j in steps if abs(i - j) <= MAX_DISTORT]
    i, j = shapes[rng.integers(len(shapes))]
    short = min(height, width)
    h, w = (max(int(short * CROP_SCALES[step]), 1) for step in (i, j))
    h, w = (size_px if abs(s - size_px) < SNAP_PX and size_px <= short else s for s in (h, w))
    down, right = CROP_PLACES[rng.integers(len(CROP_PLACES))]
    return Box(top=(height - h) // 4 * down, left=(width - w) // 4 * right, height=h, width=w)


def centre_square(height: int, width: int) -> Box:
    """Return the square of the full short side in which the face most likely is.

    Centred; in a portrait a quarter of the surplus height is cut off above, since heads are above
    the middle of upright phone videos.
    """
    side = min(height, width)
    return Box(round((height - side) * PORTRAIT_LIFT), (width - side) // 2, side, side)


def crop_and_resize(
    frames: UInt8[np.ndarray, "T H W 3"],
    box: Box,
    height_px: int,
    width_px: int,
    *,
    exact: bool = False,
) -> UInt8[np.ndarray, "T {height_px} {width_px} 3"]:
    """Cut ``box`` out of every frame and resize it with Pillow's antialiasing bilinear filter.

    Torch has it for all frames at once, seven times as fast, and a level off in one value of 1,000.
    exact: Pillow itself, for tests, whose numbers should be those of the official code.
    """
    if exact:
        area = (box.left, box.top, box.left + box.width, box.top + box.height)
        size, bilinear = (width_px, height_px), Image.Resampling.BILINEAR
        pictures = map(Image.fromarray, frames)
        return np.stack([np.asarray(one.resize(size, bilinear, box=area)) for one in pictures])
    part = frames[:, box.top : box.top + box.height, box.left : box.left + box.width]
    return resize(part, height_px, width_px)


def resize(
    frames: UInt8[np.ndarray, "T H W 3"], height_px: int, width_px: int, antialias: bool = True
) -> UInt8[np.ndarray, "T {height_px} {width_px} 3"]:
    """Resize every frame bilinearly, rounded to whole levels; `antialias` as Pillow does."""
    if frames.shape[1:3] == (height_px, width_px):
        return frames.copy()
    if not antialias:  # OpenCV rounds more closely than torch here, in two thirds of its time
        return np.stack([cv2.resize(frame, (width_px, height_px)) for frame in frames])
    pictures, size = torch.from_numpy(frames).permute(0, 3, 1, 2), (height_px, width_px)
    shrunk = functional.interpolate(pictures, size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(shrunk.permute(0, 2, 3, 1).numpy())


def to_tensor(frames: UInt8[np.ndarray, "T H W 3"]) -> Float[Tensor, "3 T H W"]:
    """Turn frames into a float clip (c T H W) in [0, 1]; the model normalises by itself."""
    return to_floats(to_bytes(frames))


def to_bytes(frames: UInt8[np.ndarray, "T H W 3"]) -> UInt8[Tensor, "T H W 3"]:
    """Frames as a training item: a quarter of the floats' size until they are on the device."""
    return torch.from_numpy(np.ascontiguousarray(frames))


def to_floats(frames: UInt8[Tensor, "*b T H W 3"]) -> Float[Tensor, "*b 3 T H W"]:
    """Turn frames, where they are, into float clips (c T H W) in [0, 1]."""
    return frames.movedim(-1, -4).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


# --- What is changed in pre-training on a few people ---


def tilt_clip(
    frames: UInt8[np.ndarray, "T H W 3"],
    degrees: float,
    rng: np.random.Generator,
    warp: float = 0.0,
) -> UInt8[np.ndarray, "T H W 3"]:
    """Turn a clip by up to `degrees` about its middle and bend it, the same for all frames.

    warp: share of the side by which each point of a coarse lattice may move, with everything
    between them following smoothly, as of another face. For sets of a few people; not in the
    reference.
    """
    if degrees == 0 and warp == 0:
        return frames
    height, width = frames.shape[1:3]
    middle, border = ((width - 1) / 2, (height - 1) / 2), cv2.BORDER_REFLECT_101
    turn = cv2.getRotationMatrix2D(middle, rng.uniform(-degrees, degrees), 1.0)
    if warp == 0:
        turned = [cv2.warpAffine(f, turn, (width, height), borderMode=border) for f in frames]
        return np.stack(turned)
    moves = rng.uniform(-warp, warp, (LATTICE, LATTICE, 2)) * (width, height)
    moves = cv2.resize(moves.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    back = cv2.invertAffineTransform(turn).astype(np.float32)
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    x, y = np.moveaxis(cv2.transform(places, back) + moves, -1, 0)
    return np.stack([cv2.remap(f, x, y, cv2.INTER_LINEAR, borderMode=border) for f in frames])


def mirror(frames: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
    """Swap left and right."""
    rows = np.ascontiguousarray(frames).reshape(-1, frames.shape[2], 3)
    return cv2.flip(rows, 1).reshape(frames.shape)


def jitter_colours(
    clips: Float[Tensor, "b 3 T H W"], strength: float, rngs: Sequence[np.random.Generator],
    grey: float = 0.0,
) -> Float[Tensor, "b 3 T H W"]:  # fmt: skip
    """Change brightness, contrast, saturation and white balance, the same for all frames.

    ``strength`` in [0, 1]: factors within 1 +- strength, of each colour within 1 +- strength / 3.
    ``grey``: share of the clips that lose their colour. ``rngs``: one for each clip.
    For sets of a few people; not in the reference.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength={strength} must lie in [0, 1]; 0 changes nothing, try 0.4")
    if strength == grey == 0:
        return clips
    draws = torch.from_numpy(np.stack([rng.uniform(-1, 1, 6) for rng in rngs])).float()
    draws = draws.to(clips.device, non_blocking=True)
    factors = 1 + strength * draws[:, :3, None, None, None, None]
    brightness, contrast, saturation = factors.unbind(1)
    balance = 1 + strength / 3 * draws[:, 3:, None, None, None]
    if grey:
        lost = torch.tensor([rng.random() < grey for rng in rngs], device=clips.device)
        lost = lost.view(-1, 1, 1, 1, 1)
        saturation, balance = saturation.masked_fill(lost, 0), balance.masked_fill(lost, 1)
    clips = (clips * brightness).clamp_(0, 1)
    middle = _grey(clips).mean((-2, -1), keepdim=True)
    clips = clips.mul_(contrast).add_((1 - contrast) * middle).clamp_(0, 1)
    clips = clips.mul(saturation).add_((1 - saturation) * _grey(clips)).clamp_(0, 1)
    return clips.mul_(balance).clamp_(0, 1)


def blend_clips(
    clips: Float[Tensor, "b 3 T H W"], share: float, rngs: Sequence[np.random.Generator]
) -> Float[Tensor, "b 3 T H W"]:
    """Mix a `share` of the clips with the clip at the mirrored place of the batch.

    ``rngs``: one for each clip; it draws whether, and its weight in [0.3, 1]. Not in the reference.
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


# --- The published transform of fine-tuning ---


def augment_clip(
    frames: UInt8[np.ndarray, "T H W 3"], box: Box, size_px: int, augment: Augment, *key: int
) -> UInt8[np.ndarray, "T {size_px} {size_px} 3"]:
    """Turn the part `box` of a video's frames into a training clip that `finish_clips` completes.

    Resize to a square -> RandAugment -> random resized crop -> mirror, each drawn once for the
    clip from `key` alone. *Official:* the crop is resized in floats; here to whole levels.
    """
    clip = np.ascontiguousarray(frames)
    if frames.shape[1:3] != (size_px, size_px) or box != (0, 0, size_px, size_px):
        clip = crop_and_resize(frames, box, size_px, size_px)
    operations = draw_operations(augment.rand_augment, *key) if augment.rand_augment else ()
    rng = np.random.default_rng([*key, 1])
    shown = crop_box(size_px, size_px, augment.crop_area, augment.crop_ratio, rng)
    # parity: without antialiasing, as the official crop
    clip = resize(apply_operations(clip, operations, shown), size_px, size_px, antialias=False)
    return mirror(clip) if rng.random() < augment.flip else clip


def crop_box(height: int, width: int, area: Range, ratio: Range, rng: np.random.Generator) -> Box:
    """Draw the rectangle of a random resized crop, as torchvision does.

    area: share of the picture, uniform. ratio: width / height, its logarithm uniform. If ten draws
    do not fit, the picture's middle of the nearest allowed ratio.
    """
    if box := _rectangle(height, width, area, ratio, rng):
        return box
    shape = min(max(width / height, ratio[0]), ratio[1])
    h, w = min(height, round(width / shape)), min(width, round(height * shape))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def _rectangle(
    height: int, width: int, area: Range, ratio: Range, rng: np.random.Generator, is_crop=True
) -> Box | None:
    """A rectangle that fits, of ten draws; ratio: of a crop width / height, else height / width."""
    low, high = (math.log(limit) for limit in ratio)
    for _ in range(TRIES):
        wanted, shape = height * width * rng.uniform(*area), math.exp(rng.uniform(low, high))
        sides = round(math.sqrt(wanted / shape)), round(math.sqrt(wanted * shape))
        h, w = sides if is_crop else sides[::-1]
        if 0 < h < height + is_crop and 0 < w < width + is_crop:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return Box(int(top), int(left), h, w)
    return None


def finish_clips(
    frames: UInt8[Tensor, "b T H W 3"], augment: Augment, keys: Sequence[Sequence[int]]
) -> Float[Tensor, "b 3 T H W"]:
    """Clips of `augment_clip`, where they are, as floats in [0, 1], some of them erased in part.

    keys: one for each clip; it determines the erased box, and with the device type the noise: one
    box for all frames, every pixel N(0, 1) in normalised units as published, but clipped to [0, 1].
    """
    clips = to_floats(frames)
    mean, std = _pixel_units(clips.device)
    for clip, key in zip(clips, keys, strict=True):
        rng = np.random.default_rng(key)
        if rng.random() >= augment.erase:
            continue
        height, width = clip.shape[-2:]
        box = _rectangle(height, width, ERASED_AREA, ERASED_RATIO, rng, is_crop=False)
        if box is None:
            continue
        generator = torch.Generator(clip.device).manual_seed(int(rng.integers(2**63)))
        part = clip[..., box.top : box.top + box.height, box.left : box.left + box.width]
        noise = torch.randn(part.shape, generator=generator, device=clip.device)
        part.copy_(noise.mul_(std).add_(mean).clamp_(0, 1))
    return clips


@lru_cache(maxsize=8)
def _pixel_units(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation (3 1 1 1); made once, since the host waits while they are sent."""
    mean, std = torch.tensor([PIXEL_MEAN, PIXEL_STD], device=device).view(2, 3, 1, 1, 1)
    return mean, std


def mix_batch(
    clips: Float[Tensor, "b 3 T H W"],
    labels: Int[Tensor, " b"],
    num_classes: int,
    augment: Augment,
    *key: int,
) -> tuple[Float[Tensor, "b 3 T H W"], Float[Tensor, "b k"]]:
    """Mix every clip with its mirror image in the batch (the last with the first); soft labels.

    timm's mixup or CutMix, one weight and one box for the whole batch, from `key`: processes that
    hold mirrored positions mix as one would. The clips are overwritten, and returned. Raises
    ValueError for an odd number of clips.
    """
    from timm.data.mixup import Mixup, cutmix_bbox_and_lam, mixup_target

    smoothing = augment.smoothing
    if not augment.mixes:
        return clips, mixup_target(labels, num_classes, smoothing=smoothing)
    if len(clips) % 2:
        raise ValueError(f"clips hold {len(clips)} entries, which do not pair; use an even number")
    with _seeded(*key):
        draw = Mixup(augment.mixup, augment.cutmix, switch_prob=augment.switch)._params_per_batch
        weight, has_box = draw()
        if has_box:
            (top, bottom, left, right), weight = cutmix_bbox_and_lam(clips.shape, weight)
            part = clips[..., top:bottom, left:right]
            part.copy_(part.flip(0))
    if not has_box:
        pieces = [clips]
        if clips.device.type == "cpu":  # a few pictures at a time, which its caches hold
            pieces = [x for colour in clips.unbind(1) for x in colour.unbind(1)]
        for piece in pieces:
            others = piece.flip(0).mul_(1 - weight)
            piece.mul_(weight).add_(others)
    return clips, mixup_target(labels, num_classes, weight, smoothing)


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Make numpy's global draws, which are timm's, a function of `key`; put them back after."""
    words = np.random.SeedSequence(key).generate_state(6)
    legacy = np.random.get_state()  # noqa: NPY002
    np.random.seed(words[2:4])  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(legacy)  # noqa: NPY002


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for what it makes next; False where that is unknown.

    glibc hands large arrays back to the system at once, which clears each page of the next one: a
    fifth of the time of an augmented clip, up to half of a training step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, another system
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
