"""Clips made plainly, as the official code makes them: frame by frame, with Pillow, in float32."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from maedfer_lab.config import Augment
from maedfer_lab.data.augment import training_indices
from maedfer_lab.data.clips import clip_indices, multi_scale_box
from maedfer_lab.data.video import open_video

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
FACE = (32, 0, 192, 160)  # left, top, right, bottom of VoxCeleb2's 224 x 224 frames
BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


def read_frames(path: Path, choose: Callable[[int], Sequence[int]]) -> list[Image.Image]:
    """The frames that `choose` names when it is told how many there are.

    From a video through decord, from a folder one image after the other.
    """
    if path.is_dir():
        files = sorted(path.iterdir())
        return [Image.open(files[i]).convert("RGB") for i in choose(len(files))]
    try:
        import decord
    except ImportError:  # no wheel for this machine
        reader = open_video(path, "pyav")
        return [Image.fromarray(frame) for frame in reader.read(choose(len(reader)))]
    video = decord.VideoReader(str(path), num_threads=1)
    return [Image.fromarray(x) for x in video.get_batch(choose(len(video))).asnumpy()]


def to_tensor(images: Sequence[Image.Image | np.ndarray]) -> Tensor:
    """Normalised frames (3 T H W)."""
    from torchvision.transforms import functional

    frames = [functional.to_tensor(image) for image in images]
    return torch.stack([functional.normalize(frame, MEAN, STD) for frame in frames], 1)


def pretraining_clip(
    path: Path, num_frames: int, stride: int, size_px: int, rng: np.random.Generator
) -> Tensor:
    """16 frames of a random stretch, one multi-scale crop of the face's place, each resized."""
    frames = read_frames(path, lambda num: clip_indices(num, num_frames, stride, rng).tolist())
    faces = [image.crop(FACE) for image in frames]
    top, left, height, width = multi_scale_box(faces[0].height, faces[0].width, rng)
    box = (left, top, left + width, top + height)
    return to_tensor([face.crop(box).resize((size_px, size_px), BILINEAR) for face in faces])


def finetuning_clip(
    path: Path,
    num_frames: int,
    stride: int,
    size_px: int,
    augment: Augment,
    rng: np.random.Generator,
) -> Tensor:
    """Frames stretched to a square, RandAugment, then random crop, mirror and erasing as floats."""
    from torchvision.transforms import RandomResizedCrop

    frames = read_frames(path, lambda num: training_indices(num, num_frames, stride, rng).tolist())
    images = [image.resize((size_px, size_px), BILINEAR) for image in frames]
    clip = to_tensor(_rand_augment(images, augment.rand_augment))
    area, ratio = list(augment.crop_area), list(augment.crop_ratio)
    top, left, height, width = RandomResizedCrop.get_params(clip, area, ratio)
    cut = clip[:, :, top : top + height, left : left + width]
    clip = F.interpolate(cut, (size_px, size_px), mode="bilinear", align_corners=False)
    if random.random() < augment.flip:
        clip = clip.flip(-1)
    return _erased(clip, augment)


def finished(clips: Tensor, augment: Augment) -> Tensor:
    """Normalised floats (b 3 T H W) of frames (b T H W 3), erased in part."""
    return torch.stack([_erased(to_tensor(list(clip.numpy())), augment) for clip in clips])


def _erased(clip: Tensor, augment: Augment) -> Tensor:
    from timm.data.random_erasing import RandomErasing

    eraser = RandomErasing(augment.erase, mode="pixel", device="cpu")
    return eraser(clip.flatten(0, 1)).view_as(clip)


def _rand_augment(images: Sequence[Image.Image], description: str) -> list[Image.Image]:
    """timm's transform, with the same draws for every frame."""
    from timm.data.auto_augment import rand_augment_transform

    options = {"translate_const": int(images[0].width * 0.45), "interpolation": BICUBIC}
    transform = rand_augment_transform(description, options)
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (timm draws there)
    changed = []
    for image in images:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        changed.append(transform(image))
    return changed


def test_view(
    path: Path, num_frames: int, stride: int, size_px: int, segment: int, segments: int = 2
) -> Tensor:
    """One of the test's windows; every frame at the stride is read and resized for it."""

    def strided(num: int) -> list[int]:
        indices = list(range(0, num, stride))
        return indices + indices[-1:] * (num_frames - len(indices))

    images = [image.resize((size_px, size_px), BILINEAR) for image in read_frames(path, strided)]
    start = int(segment * (len(images) - num_frames) / (segments - 1))
    return to_tensor(images[start : start + num_frames])


def mixed(clips: Tensor, labels: Tensor, num_classes: int, augment: Augment) -> tuple[Tensor, ...]:
    """timm's mixup or CutMix of a batch (b 3 T H W), in place, and its soft labels."""
    from timm.data.mixup import Mixup

    mixup = Mixup(
        augment.mixup,
        augment.cutmix,
        switch_prob=augment.switch,
        label_smoothing=augment.smoothing,
        num_classes=num_classes,
    )
    return mixup(clips.flatten(1, 2), labels)
