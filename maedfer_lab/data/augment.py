"""The published training transform of fine-tuning, and mixup of a batch.

A clip is resized, changed by RandAugment, cropped and mirrored as uint8 where it is read
(`augment_clip`), and erased and mixed as floats, a batch at a time, on the device
(`finish_clips`, `mix_batch`). Every random number is a function of a key such as (seed, item).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from maedfer_lab.config import Augment
from maedfer_lab.data.clips import Box, check_counts, crop_and_resize, mirror, resize, to_floats
from maedfer_lab.data.rand_augment import apply_operations, draw_operations

PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, as in the model
ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)  # of the picture; height / width
TRIES = 10  # draws of a rectangle that may not fit


def training_indices(
    num_video_frames: int,
    num_frames: int = 16,
    stride: int = 4,
    rng: np.random.Generator | None = None,
) -> Int[np.ndarray, " T"]:
    """Choose the frames of one training clip as the published fine-tuning does.

    The clip spans ``num_frames * stride`` frames that end at a random frame, and its frames are
    spread evenly over the span: 64 / 15 = 4.27 apart at stride 4, where test clips are 4 apart.
    Without ``rng`` the span lies in the middle (the published validation draws it at random, so
    that its scores change from look to look). A video no longer than the span gives one frame for
    every ``stride`` frames, and then its last one again and again.

    *Official:* the same rule. The last frame of a longer video is never used: its `randint`
    leaves the end out.

    Raises:
        ValueError: one of the numbers is below 1.
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


def augment_clip(
    frames: UInt8[np.ndarray, "T H W 3"], box: Box, size_px: int, augment: Augment, *key: int
) -> UInt8[np.ndarray, "T {size_px} {size_px} 3"]:
    """Turn the part `box` of a video's frames into a training clip that `finish_clips` completes.

    Resize to a square -> RandAugment -> random resized crop -> mirror, each drawn once for the
    clip. `key` decides everything that is random; no global generator is touched, so many threads
    may do this at once.

    *Official:* the crop is resized in floats; here it is rounded to whole levels.
    """
    clip = np.ascontiguousarray(frames)
    if frames.shape[1:3] != (size_px, size_px) or box != (0, 0, size_px, size_px):
        clip = crop_and_resize(frames, box, size_px, size_px)
    description = augment.rand_augment
    operations = draw_operations(description, *key) if description else ()
    rng = np.random.default_rng([*key, 1])
    shown = crop_box(size_px, size_px, augment.crop_area, augment.crop_ratio, rng)
    # parity: without antialiasing, as the official crop
    clip = resize(apply_operations(clip, operations, shown), size_px, size_px, antialias=False)
    return mirror(clip) if rng.random() < augment.flip else clip


def crop_box(
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """Draw the rectangle of a random resized crop, as torchvision does.

    area: as a share of the picture, uniform. ratio: width / height, its logarithm uniform. If ten
    draws do not fit into the picture, its middle of the nearest allowed ratio.
    """
    low, high = (math.log(limit) for limit in ratio)
    for _ in range(TRIES):
        wanted, shape = height * width * rng.uniform(*area), math.exp(rng.uniform(low, high))
        h, w = round(math.sqrt(wanted / shape)), round(math.sqrt(wanted * shape))
        if 0 < h <= height and 0 < w <= width:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return Box(int(top), int(left), h, w)
    shape = min(max(width / height, ratio[0]), ratio[1])
    h, w = min(height, round(width / shape)), min(width, round(height * shape))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def finish_clips(
    frames: UInt8[Tensor, "b T H W 3"], augment: Augment, keys: Sequence[Sequence[int]]
) -> Float[Tensor, "b 3 T H W"]:
    """Clips of `augment_clip`, where they are, as floats in [0, 1], some of them erased in part.

    keys: one for each clip; it decides what is erased, and with the kind of device the noise.

    One box for all frames, noise of its own for every pixel, as timm has it. The published noise
    is N(0, 1) in normalised units. Ours is the same, mapped to pixels, where the 3.3 % of it that
    no picture can hold are clipped to [0, 1].
    """
    clips = to_floats(frames)
    mean, std = _pixel_units(clips.device)
    for clip, key in zip(clips, keys, strict=True):
        rng = np.random.default_rng(key)
        if rng.random() >= augment.erase:
            continue
        if (box := _erased_box(clip.shape[-2], clip.shape[-1], rng)) is None:
            continue
        generator = torch.Generator(clip.device).manual_seed(int(rng.integers(2**63)))
        size = (3, clip.shape[1], box.height, box.width)
        noise = torch.randn(size, generator=generator, device=clip.device)
        rows = slice(box.top, box.top + box.height)
        columns = slice(box.left, box.left + box.width)
        clip[..., rows, columns] = noise.mul_(std).add_(mean).clamp_(0, 1)
    return clips


@lru_cache(maxsize=8)
def _pixel_units(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation (3 1 1 1); made once, since the host waits while they are sent."""
    mean, std = torch.tensor([PIXEL_MEAN, PIXEL_STD], device=device).view(2, 3, 1, 1, 1)
    return mean, std


def _erased_box(height: int, width: int, rng: np.random.Generator) -> Box | None:
    low, high = (math.log(limit) for limit in ERASED_RATIO)
    for _ in range(TRIES):
        wanted = height * width * rng.uniform(*ERASED_AREA)
        shape = math.exp(rng.uniform(low, high))
        h, w = round(math.sqrt(wanted * shape)), round(math.sqrt(wanted / shape))
        if h < height and w < width:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return Box(int(top), int(left), h, w)
    return None


def mix_batch(
    clips: Float[Tensor, "b 3 T H W"],
    labels: Int[Tensor, " b"],
    num_classes: int,
    augment: Augment,
    *key: int,
) -> tuple[Float[Tensor, "b 3 T H W"], Float[Tensor, "b k"]]:
    """Mix every clip with its mirror image in the batch (the last with the first); soft labels.

    timm's mixup or CutMix, one weight and one box for the whole batch. All draws follow from
    `key`, so that processes that hold mirrored positions of one batch mix as one process would.
    The clips are overwritten, and returned.

    Raises:
        ValueError: an odd number of clips.
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
        # On a CPU a few pictures at a time, which its caches hold.
        on_cpu = clips.device.type == "cpu"
        pieces = [x for colour in clips.unbind(1) for x in colour.unbind(1)] if on_cpu else [clips]
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
