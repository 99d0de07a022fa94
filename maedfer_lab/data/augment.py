"""The published training transform of fine-tuning, and mixup of a batch: timm's and torchvision's.

Every random number is a function of a key such as (seed, item): the libraries draw from global
generators, which `seeded` sets for the moment and puts back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from maedfer_lab.config import Augment
from maedfer_lab.data.clips import Box, check_counts, crop_and_resize, to_tensor

PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, as in the model
SHIFT = 0.45  # RandAugment moves by up to this share of the picture


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


@contextmanager
def seeded(*key: int) -> Iterator[Callable[[], None]]:
    """Make Python's, numpy's and torch's global draws a function of `key`; put them back after.

    Yields a function that rewinds Python and numpy to the start.
    """
    words = np.random.SeedSequence(key).generate_state(6)
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (timm draws there)

    def rewind() -> None:
        random.seed(words[:2].tobytes())
        np.random.seed(words[2:4])  # noqa: NPY002

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(words[4]) << 32 | int(words[5]))
        rewind()
        try:
            yield rewind
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


def augment_clip(
    frames: UInt8[np.ndarray, "T H W 3"], box: Box, size_px: int, augment: Augment, *key: int
) -> Float[Tensor, "3 T {size_px} {size_px}"]:
    """Turn the part `box` of a video's frames into a training clip, pixels in [0, 1].

    Resize to a square -> RandAugment -> random resized crop -> mirror -> erase, each drawn once
    for the clip. `key` decides everything that is random.
    """
    clip = crop_and_resize(frames, box, size_px, size_px)
    with seeded(*key) as rewind:
        if augment.rand_augment:
            clip = rand_augment(clip, augment.rand_augment, rewind)
        return _after_colours(to_tensor(clip), augment)


def rand_augment(
    clip: UInt8[np.ndarray, "T H W 3"], description: str, rewind: Callable[[], None]
) -> UInt8[np.ndarray, "T H W 3"]:
    """timm's RandAugment with the same draws for every frame: `rewind` comes before each.

    *Official:* bicubic, moves in parts of 0.45 of the size, holes filled with grey 128.
    """
    from timm.data.auto_augment import rand_augment_transform

    options = {
        "translate_const": int(min(clip.shape[1:3]) * SHIFT),
        "interpolation": Image.Resampling.BICUBIC,
    }
    transform = rand_augment_transform(description, options)
    changed = np.empty_like(clip)
    for frame, out in zip(clip, changed, strict=True):
        rewind()
        out[:] = np.asarray(transform(Image.fromarray(frame)))
    return changed


def _after_colours(clip: Float[Tensor, "3 T H W"], augment: Augment) -> Float[Tensor, "3 T H W"]:
    """Random resized crop, mirror and erasing, one draw for all frames."""
    from torchvision.transforms import RandomResizedCrop
    from torchvision.transforms.v2 import functional

    area, ratio = list(augment.crop_area), list(augment.crop_ratio)
    box = RandomResizedCrop.get_params(clip, area, ratio)  # (top, left, height, width)
    size = list(clip.shape[-2:])
    # parity: without antialiasing, as the official crop
    clip = functional.resized_crop(clip, *box, size, antialias=False).clamp(0, 1)
    if random.random() < augment.flip:
        clip = clip.flip(-1)
    return erase(clip, augment.erase)


def erase(clip: Float[Tensor, "3 T H W"], probability: float) -> Float[Tensor, "3 T H W"]:
    """timm's random erasing: one box for all frames, noise of its own for every pixel.

    The published noise is N(0, 1) in normalised units. Ours is the same, mapped to pixels, where
    the 3.3 % of it that no picture can hold are clipped to [0, 1].
    """
    from timm.data.random_erasing import RandomErasing

    eraser = RandomErasing(probability, mode="pixel", device="cpu")
    kept = torch.full_like(clip.flatten(0, 1), torch.nan)  # (c T) H W: one picture to timm
    noise = eraser(kept).view_as(clip)
    mean, std = (torch.tensor(x).view(3, 1, 1, 1) for x in (PIXEL_MEAN, PIXEL_STD))
    return torch.where(noise.isnan(), clip, (mean + std * noise).clamp(0, 1))


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

    Raises:
        ValueError: an odd number of clips.
    """
    from timm.data.mixup import Mixup, mixup_target

    if not augment.mixes:
        return clips, mixup_target(labels, num_classes, smoothing=augment.smoothing)
    if len(clips) % 2:
        raise ValueError(f"clips hold {len(clips)} entries, which do not pair; use an even number")
    mixup = Mixup(
        augment.mixup,
        augment.cutmix,
        switch_prob=augment.switch,
        label_smoothing=augment.smoothing,
        num_classes=num_classes,
    )
    with seeded(*key):
        # timm mixes pictures in place: time goes with the colours
        mixed, targets = mixup(clips.flatten(1, 2).clone(), labels)
    return mixed.view_as(clips), targets
