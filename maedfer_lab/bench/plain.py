"""Models and clips written plainly: the official equations and transforms, with no work left out.

Models are functions of a state dict with official names, independent of ours, and the reference of
their tests. Clips are made frame by frame, with Pillow, in float32.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import RandomResizedCrop, functional

from maedfer_lab.config import Augment
from maedfer_lab.data.readers import open_video
from maedfer_lab.data.transforms import clip_indices, multi_scale_box, training_indices

Parameters = Mapping[str, Tensor]
Arguments = Mapping[str, Any]  # of the official constructor, `arguments_of`
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
FACE = (32, 0, 192, 160)  # left, top, right, bottom of VoxCeleb2's 224 x 224 frames
BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


@lru_cache(maxsize=8)
def positions(num: int, width: int) -> Tensor:
    """The table of sine-cosine positions (num, width)."""
    j = np.arange(width)
    angle = np.arange(num)[:, None] / 10000 ** (2 * (j // 2) / width)
    return torch.from_numpy(np.where(j % 2, np.cos(angle), np.sin(angle)).astype(np.float32))


def norm(p: Parameters, name: str, x: Tensor) -> Tensor:
    """LayerNorm."""
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], 1e-6)


def linear(p: Parameters, name: str, x: Tensor) -> Tensor:
    """A linear layer."""
    return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])


def attend(p: Parameters, name: str, x: Tensor, context: Tensor, heads: int) -> Tensor:
    """Attention of x (b n c) to context (b k c). Joint blocks alone have one matrix for q, k, v."""
    q_bias, v_bias = p.get(f"{name}.q_bias"), p.get(f"{name}.v_bias")
    if f"{name}.qkv.weight" in p:
        bias = None
        if q_bias is not None and v_bias is not None:
            bias = torch.cat([q_bias, torch.zeros_like(v_bias), v_bias])
        q, k, v = F.linear(x, p[f"{name}.qkv.weight"], bias).chunk(3, -1)
    else:
        bias = None if v_bias is None else torch.cat([torch.zeros_like(v_bias), v_bias])
        q = F.linear(x, p[f"{name}.q.weight"], q_bias)
        k, v = F.linear(context, p[f"{name}.kv.weight"], bias).chunk(2, -1)
    q, k, v = (rearrange(t, "b n (a d) -> b a n d", a=heads) for t in (q, k, v))
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
    return linear(p, f"{name}.proj", rearrange(weights @ v, "b a n d -> b n (a d)"))


def mlp(p: Parameters, name: str, x: Tensor) -> Tensor:
    """Two linear layers with an exact GELU between them."""
    return linear(p, f"{name}.fc2", F.gelu(linear(p, f"{name}.fc1", x)))


def joint_block(p: Parameters, name: str, x: Tensor, heads: int) -> Tensor:
    """A block of a ViT."""
    y = norm(p, f"{name}.norm1", x)
    x = x + attend(p, f"{name}.attn", y, y, heads)
    return x + mlp(p, f"{name}.mlp", norm(p, f"{name}.norm2", x))


def lg_block(
    p: Parameters, name: str, s: Tensor, x: Tensor, heads: int, kw: Arguments
) -> tuple[Tensor, Tensor]:
    """A local-global block; s: (b, m, c) region tokens, x: (b, m, n, c) tokens of the regions."""
    b = len(s)

    def join() -> Tensor:
        return torch.cat([s[:, :, None], x], 2).flatten(0, 1)

    def part(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.unflatten(0, (b, -1))
        return z[:, :, 0], z[:, :, 1:]

    def within(stage: str) -> tuple[Tensor, Tensor]:
        z = join()
        y = norm(p, f"{name}.{stage}_norm0", z)
        return part(z + attend(p, f"{name}.{stage}", y, y, heads))

    if kw.get("lg_first_attn_type", "self") == "self":
        s, x = within("first_attn")
    else:
        query = norm(p, f"{name}.first_attn_norm0", s).flatten(0, 1)[:, None]
        context = norm(p, f"{name}.first_attn_norm1", x).flatten(0, 1)
        s = s + attend(p, f"{name}.first_attn", query, context, heads).view(s.shape)
    if not kw.get("lg_no_second"):
        y = norm(p, f"{name}.second_attn_norm0", s)
        s = s + attend(p, f"{name}.second_attn", y, y, heads)
    if not kw.get("lg_no_third"):
        if kw.get("lg_third_attn_type", "cross") == "self":
            s, x = within("third_attn")
        else:
            query = norm(p, f"{name}.third_attn_norm0", x).flatten(1, 2)
            context = norm(p, f"{name}.third_attn_norm1", s)
            x = x + attend(p, f"{name}.third_attn", query, context, heads).view(x.shape)
    z = join()
    return part(z + mlp(p, f"{name}.mlp", norm(p, f"{name}.norm2", z)))


def embed(p: Parameters, prefix: str, clip: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Tokens (b, n, c) with positions, in the order (t, h, w), and the grid."""
    weight = p[f"{prefix}patch_embed.proj.weight"]
    x = F.conv3d(clip, weight, p[f"{prefix}patch_embed.proj.bias"], stride=weight.shape[2:])
    grid, x = x.shape[2:], x.flatten(2).transpose(1, 2)
    return x + positions(x.shape[1], x.shape[2]).to(x), tuple(grid)


def blocks(
    p: Parameters, prefix: str, x: Tensor, kw: Arguments, heads: int
) -> tuple[Tensor | None, Tensor]:
    """Through all blocks; x: (b, m, n, c) for local-global, (b, n, c) for joint attention."""
    depth = len({n.split("blocks.")[1].split(".")[0] for n in p if n.startswith(f"{prefix}blocks")})
    s = p.get(f"{prefix}lg_region_tokens")
    if s is None:
        for i in range(depth):
            x = joint_block(p, f"{prefix}blocks.{i}", x, heads)
        return None, x
    s = s.expand(len(x), -1, -1)
    for i in range(depth):
        s, x = lg_block(p, f"{prefix}blocks.{i}", s, x, heads, kw)
    return s, x


def classify(p: Parameters, clip: Tensor, kw: Arguments) -> Tensor:
    """Logits (b k) of ImageNet-normalised clips (b 3 T H W)."""
    x, (t, h, w) = embed(p, "", clip)
    if kw["attn_type"] == "local_global":
        a, b, c = kw["lg_region_size"]
        cut = "b (nt t nh h nw w) c -> b (nt nh nw) (t h w) c"
        x = rearrange(x, cut, nt=t // a, nh=h // b, nw=w // c, t=a, h=b, w=c)
    s, x = blocks(p, "", x, kw, kw["num_heads"])
    if s is not None:
        kind = kw.get("lg_classify_token_type", "org")
        both = torch.cat([s[:, :, None], x], 2).flatten(1, 2)
        x = {"region": s, "org": x.flatten(1, 2), "all": both}[kind]
    if kw.get("use_mean_pooling", True):
        feature = norm(p, "fc_norm", x.mean(1))
    else:
        feature = norm(p, "norm", x)[:, 0]
    return linear(p, "head", feature)


def reconstruct(p: Parameters, clip: Tensor, mask: Tensor, kw: Arguments) -> tuple[Tensor, Tensor]:
    """Encoder output (b v c) and predictions (b m p) of normalised clips; mask (b n), True hides.

    Visible tokens are cut into regions by rank and placed in grid order, as published.
    """
    x, (t, h, w) = embed(p, "encoder.", clip)
    x = x[~mask].view(len(x), -1, x.shape[-1])
    if kw["attn_type"] == "local_global":
        a, b, c = kw["lg_region_size"]
        regions = (h // b) * (w // c)  # in a frame; each takes its share of the visible, by rank
        x = rearrange(x, "b (nt t nhw hw) c -> b (nt nhw) (t hw) c", nt=t // a, t=a, nhw=regions)
    _, x = blocks(p, "encoder.", x, kw, kw["encoder_num_heads"])
    out = norm(p, "encoder.norm", x.flatten(1, -2))
    x = F.linear(out, p["encoder_to_decoder.weight"])
    place = positions(mask.shape[1], x.shape[-1]).to(x).expand(len(x), -1, -1)
    masked = p["mask_token"] + place[mask].view(len(x), -1, x.shape[-1])
    x = torch.cat([x + place[~mask].view(x.shape), masked], 1)
    joint = {n: v for n, v in p.items() if "lg_" not in n}
    _, x = blocks(joint, "decoder.", x, kw, kw["decoder_num_heads"])
    x = norm(p, "decoder.norm", x[:, -masked.shape[1] :])
    return out, linear(p, "decoder.head", x)


def targets(pixels: Tensor, mask: Tensor, kw: Arguments) -> Tensor:
    """What hidden cubes of two frames are to show (b m p): the first frame, then the motion.

    pixels: (b 3 T H W) in [0, 1]. Every cube is normalised by its own mean and deviation.
    """
    t, s = kw["tubelet_size"], kw["patch_size"]
    cut = "b c (t pt) (h ph) (w pw) -> b (t h w) (pt ph pw) c"
    cubes = rearrange(pixels, cut, pt=t, ph=s, pw=s)
    mean, deviation = cubes.mean(2, keepdim=True), cubes.var(2, keepdim=True).sqrt()
    frames = ((cubes - mean) / (deviation + 1e-6)).unflatten(2, (t, -1))
    first, second = frames[:, :, :1], frames[:, :, 1:]
    shown = torch.cat([first, second - first], 2).flatten(2)
    return shown[mask].view(len(shown), -1, shown.shape[-1])


# ---------------------------------------------------------------------------- clips


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
    frames = [functional.to_tensor(image) for image in images]
    return torch.stack([functional.normalize(frame, MEAN, STD) for frame in frames], 1)


def pretraining_clip(
    path: Path, num_frames: int, stride: int, size_px: int, rng: np.random.Generator
) -> Tensor:
    """16 frames of a random stretch, one multi-scale crop of the face's place, each resized."""
    frames = read_frames(path, lambda num: clip_indices(num, num_frames, stride, rng).tolist())
    faces = [image.crop(FACE) for image in frames]
    top, left, height, width = multi_scale_box(faces[0].height, faces[0].width, size_px, rng)
    box = (left, top, left + width, top + height)
    return to_tensor([face.crop(box).resize((size_px, size_px), BILINEAR) for face in faces])


def finetuning_clip(
    path: Path, num_frames: int, stride: int, size_px: int, augment: Augment,
    rng: np.random.Generator,
) -> Tensor:  # fmt: skip
    """Frames stretched to a square, RandAugment, then random crop, mirror and erasing as floats."""
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
    eraser = RandomErasing(augment.erase, mode="pixel", device="cpu")
    return eraser(clip.flatten(0, 1)).view_as(clip)


def _rand_augment(images: Sequence[Image.Image], description: str) -> list[Image.Image]:
    """timm's transform, with the same draws for every frame."""
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
    mixup = Mixup(augment.mixup, augment.cutmix, switch_prob=augment.switch,
                  label_smoothing=augment.smoothing, num_classes=num_classes)  # fmt: skip
    return mixup(clips.flatten(1, 2), labels)
