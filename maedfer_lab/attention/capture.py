"""Run an encoder on a clip and keep the attention weights of chosen layers and heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maedfer_lab.attention.maps import AttentionMaps, is_within_regions, stages_of
from maedfer_lab.config import ModelConfig
from maedfer_lab.method.grid import Grid
from maedfer_lab.method.models import Classifier, Encoder, MaskedAutoencoder, check_clip

Heads = Sequence[int] | Literal["mean"] | None
MAX_BYTES = 2**28


def attention_bytes(
    config: ModelConfig,
    layers: Sequence[int] | None = None,
    heads: Heads = None,
    num_visible: int | None = None,
    dtype: torch.dtype = torch.float16,
) -> int:
    """Size of what `capture_attention` keeps with these arguments, known before it runs.

    num_visible: tokens that the encoder sees; all of the grid by default.

    While it runs, the weights of one layer in float32, for all heads, come on top.
    """
    num_layers = len(_layers(config, layers))
    num_heads = 1 if heads == "mean" else len(_heads(config, heads))
    grid = Grid.of_clip(config.frames, config.size_px, config.size_px, config.tubelet)
    visible = grid.n if num_visible is None else num_visible
    if not config.has_regions:
        values = visible**2
    else:
        t, h, w = config.region
        regions = grid.n // (t * h * w)
        size = visible // regions
        within = regions * (size + 1) ** 2
        sizes = {
            "local": within if config.local == "self" else regions * size,
            "inter": regions**2,
            "interact": within if config.interact == "self" else visible * regions,
        }
        values = sum(sizes[stage] for stage in stages_of(config))
    return values * num_heads * num_layers * dtype.itemsize


@torch.no_grad()
def capture_attention(
    model: MaskedAutoencoder | Classifier | Encoder,
    clip: Float[Tensor, "3 T H W"],
    *,
    layers: Sequence[int] | None = None,
    heads: Heads = None,
    index: Int[Tensor, " v"] | None = None,
    max_bytes: int = MAX_BYTES,
    dtype: torch.dtype = torch.float16,
) -> AttentionMaps:
    """The attention weights with which the model's encoder reads one clip.

    The model's own blocks return them: in the chosen layers the softmax is written out, the
    others run fused. A masked autoencoder's decoder is not looked into.

    clip: pixels in [0, 1].
    layers: numbers from 0; all by default.
    heads: numbers from 0; all by default; "mean" keeps their mean alone.
    index: tokens that the encoder sees, in its order: `model.split(mask).visible[0]`; all by
        default.
    max_bytes: refuse before running if `attention_bytes` is larger.
    dtype: of the kept weights, which lie on the CPU.

    Raises:
        ValueError: a clip of another shape (or a batch), NaN in it, layers or heads that do
            not exist, tokens that do not fit the regions, or too many bytes; the text says which
            layers would fit.
    """
    encoder = model if isinstance(model, Encoder) else model.encoder
    config, grid = encoder.config, encoder.grid
    if isinstance(clip, Tensor) and clip.ndim != 4:
        raise ValueError(
            f"clip of shape {tuple(clip.shape)} must be one clip (3, T, H, W); of a batch take "
            "clip[0]"
        )
    batch = clip.unsqueeze(0) if isinstance(clip, Tensor) else clip
    check_clip(batch, config)
    order = encoder.all_tokens if index is None else _check_index(index, encoder)
    chosen_layers, chosen_heads = _layers(config, layers), _heads(config, heads)
    size = attention_bytes(config, chosen_layers, heads, len(order), dtype)
    if size > max_bytes:
        one = attention_bytes(config, chosen_layers[:1], heads, len(order), dtype)
        fit = chosen_layers[len(chosen_layers) - max_bytes // one :] if max_bytes >= one else []
        ways = [f"layers={fit} would fit"] if fit else [f"one layer needs {one:,}"]
        ways += [] if heads == "mean" else ["heads='mean' keeps one map in place of all heads'"]
        raise ValueError(
            f"attention of {len(chosen_layers)} layers needs {size:,} bytes, more than "
            f"max_bytes={max_bytes:,}; {'; '.join(ways)}"
        )
    few = None if heads == "mean" else chosen_heads
    kept = {layer: _Kept(config, few, dtype) for layer in chosen_layers}
    weight = encoder.embed.proj.weight
    was_training = encoder.training
    encoder.eval()
    try:
        encoder(
            batch.to(weight.device, weight.dtype),
            order.to(weight.device).unsqueeze(0),
            weights=dict(kept),
        )
    finally:
        encoder.train(was_training)
    if not all(kept.values()):
        raise ValueError(
            f"encoder={config.encoder!r} keeps no attention: its blocks must fill `weights` where "
            "they are called with it, as ViTBlock does"
        )
    return AttentionMaps(
        config=config,
        grid=grid,
        index=order.cpu().clone(),
        layers={layer: dict(stages) for layer, stages in kept.items()},
        heads=() if heads == "mean" else tuple(chosen_heads),
    )


class _Kept(dict[str, Tensor]):
    """What a block's weights are put into: only what was asked for stays, and small."""

    def __init__(self, config: ModelConfig, heads: list[int] | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.heads, self.dtype = config, heads, dtype

    def __setitem__(self, stage: str, weights: Tensor) -> None:
        if not is_within_regions(stage, self.config):
            weights = weights[0]  # the only clip; within regions the first axis is the region
        axis = weights.ndim - 3
        if self.heads is None:
            weights = weights.mean(axis, keepdim=True)
        else:
            weights = weights.index_select(axis, torch.tensor(self.heads, device=weights.device))
        super().__setitem__(stage, weights.to(self.dtype).cpu())


def _layers(config: ModelConfig, layers: Sequence[int] | None) -> list[int]:
    return _numbers("layers", layers, config.depth)


def _heads(config: ModelConfig, heads: Heads) -> list[int]:
    if isinstance(heads, str):
        if heads != "mean":
            raise ValueError(f"heads={heads!r} must be numbers, None for all, or 'mean'")
        heads = None
    return _numbers("heads", heads, config.num_heads)


def _numbers(name: str, chosen: Sequence[int] | None, count: int) -> list[int]:
    if chosen is None:
        return list(range(count))
    wrong = [i for i in chosen if not 0 <= i < count]
    if wrong or not len(chosen) or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"{name}={list(chosen)} must be different numbers from 0 to {count - 1}, at least "
            f"one; try {name}=[{count - 1}]"
        )
    return sorted(chosen)


def _check_index(index: Tensor, encoder: Encoder) -> Tensor:
    num, regions = encoder.grid.n, encoder.num_regions
    if index.ndim != 1 or not len(index) or index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(
            f"index of shape {tuple(index.shape)} and {index.dtype} must list token numbers; use "
            "model.split(mask).visible[0]"
        )
    values = index.tolist()
    if min(values) < 0 or max(values) >= num or len(set(values)) < len(values):
        raise ValueError(f"index must hold different token numbers from 0 to {num - 1}")
    if regions and len(values) % regions:
        raise ValueError(
            f"index has {len(values)} tokens, which {regions} regions cannot share equally; use "
            "model.split(mask).visible[0]"
        )
    return index
