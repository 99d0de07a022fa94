"""Parameters and multiply-adds of every module by closed formula. Plain integers, no torch.

K tokens lie in M local regions of N = K / M; C is the width; T = M (N + 1) counts tokens and
representative tokens. A block of LGI-Former costs, in multiply-adds per clip:

    local         4 T C^2 + 2 M (N + 1)^2 C
    inter         4 M C^2 + 2 M^2 C
    interact      2 (K + M) C^2 + 2 K M C
    feed forward  8 T C^2                        (hidden layer of 4 C)

and a ViT block 4 K C^2 + 2 K^2 C, then 8 K C^2. A multiply-add counts as one: "GMACs"; what the
paper calls 50G and 81G FLOPs are these. GFLOPs, as two operations each, are twice as many.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

from maedfer_lab.config import BUILT_IN, ModelConfig, Shape3, choose

ModelTask = Literal["classify", "pretrain"]
COLOURS = 3


class Work(NamedTuple):
    """Cost of a module for one clip.

    linear: multiply-adds with weights.
    attention: multiply-adds of queries with keys and of attention weights with values.
    layer_norm: operations that fvcore adds for LayerNorm; formulas leave them out.
    """

    linear: int = 0
    attention: int = 0
    layer_norm: int = 0

    @property
    def macs(self) -> int:
        """Multiply-adds, without LayerNorm."""
        return self.linear + self.attention


def macs(config: ModelConfig, task: ModelTask = "classify", **options: Any) -> dict[str, int]:
    """Multiply-adds of one clip's forward pass by module and stage; their sum is the total.

    49.65e9 in sum for the paper's classifier as published. options: those of `work`.
    """
    return macs_of(work(config, task, **options))


def total_macs(config: ModelConfig, task: ModelTask = "classify", **options: Any) -> int:
    """Multiply-adds of one clip's forward pass in all: the sum of `macs`."""
    return sum(macs(config, task, **options).values())


def macs_of(parts: dict[str, Work]) -> dict[str, int]:
    """Multiply-adds of each part that has any."""
    return {name: part.macs for name, part in parts.items() if part.macs}


def add(parts: dict[str, Work], more: dict[str, Work], times: int = 1) -> None:
    """Add work to that of the same names."""
    for name, part in more.items():
        both = zip(parts.get(name, Work()), part, strict=True)
        parts[name] = Work(*(a + times * b for a, b in both))


def work(
    config: ModelConfig, task: ModelTask = "classify", *, num_classes: int = 7,
    mask_ratio: float = 0.9, as_published: bool = False,
) -> dict[str, Work]:  # fmt: skip
    """Cost of one clip's forward pass by module and stage.

    task: "classify" (all tokens, representative tokens pooled, a ViT's tokens) or "pretrain"
        (visible tokens through the encoder, all through the decoder, without the loss).
    mask_ratio: share of hidden tokens in pre-training.
    as_published: including the official code's unused work (equal results): all of the last block
        although only representative tokens are pooled, the embedding of hidden cubes, the last
        decoder block for visible tokens.

    Raises ValueError for a region, clip or mask ratio that does not fit the token grid.
    """
    _check(config, task)
    tokens, width = math.prod(token_grid(config)), config.width
    cube = math.prod(config.tubelet) * COLOURS
    seen = tokens if task == "classify" else _num_visible(config, mask_ratio)
    embedded = tokens if as_published else seen
    parts = {"embedding": Work(linear=embedded * cube * width)}
    skips = task == "classify" and not as_published and config.depth > 0
    add(parts, encoder_block(config, seen), config.depth - skips)
    add(parts, encoder_block(config, seen, rep_only=True), int(skips))
    if task == "classify":
        return {**parts, "head": Work(linear=width * num_classes)}
    narrow, masked = config.decoder_width, tokens - seen
    parts["decoder_embedding"] = Work(linear=seen * width * narrow)
    last, one = tokens if as_published else masked, min(config.decoder_depth, 1)
    for read, times in ((tokens, config.decoder_depth - one), (last, one)):
        block = _vit_block(narrow, config.mlp_ratio, tokens, read)
        add(parts, {f"decoder_{name}": part for name, part in block.items()}, times)
    parts["decoder_head"] = Work(linear=masked * narrow * cube)
    return parts


def encoder_block(
    config: ModelConfig, tokens: int | None = None, *, rep_only: bool = False
) -> dict[str, Work]:
    """Cost of one block of the encoder by stage, for one clip.

    tokens: how many go through it (all of the grid by default), equally many in each region.
    rep_only: only representative tokens are computed, as in a classifier's last block.
    """
    tokens = math.prod(token_grid(config)) if tokens is None else tokens
    if config.encoder == "vit":
        return _vit_block(config.width, config.mlp_ratio, tokens, tokens)
    width, regions = config.width, num_regions(config)
    size, everything = tokens // regions, tokens + regions
    rep_only = rep_only and config.interact != "self"  # there stage 3 changes them as well

    queries = 1 if rep_only or config.local == "cross" else size + 1
    keys = size + (config.local != "cross")
    parts = {"local": _attention(width, queries, keys, regions)}
    if config.inter:
        parts["inter"] = _attention(width, regions, regions)
    if config.interact != "none" and not rep_only:
        one = (size + 1, size + 1, regions) if config.interact == "self" else (tokens, regions)
        parts["interact"] = _attention(width, *one)
    count = regions if rep_only else everything
    return {**parts, "feed_forward": _feed_forward(width, config.mlp_ratio, count)}


def _vit_block(width: int, mlp_ratio: float, tokens: int, last: int) -> dict[str, Work]:
    """Cost of a block with joint attention that returns the `last` of its `tokens`."""
    return {"joint": _attention(width, last, tokens),
            "feed_forward": _feed_forward(width, mlp_ratio, last)}  # fmt: skip


def _attention(width: int, queries: int, keys: int, sequences: int = 1) -> Work:
    return Work(2 * sequences * (queries + keys) * width**2, 2 * sequences * queries * keys * width)


def _feed_forward(width: int, ratio: float, tokens: int) -> Work:
    return Work(2 * tokens * width * int(width * ratio))


def parameters(
    config: ModelConfig, task: ModelTask = "classify", *, num_classes: int = 7
) -> dict[str, int]:
    """Number of parameters by module and stage; their sum is the model's.

    84,878,343 in sum for the paper's classifier of 7 classes. LayerNorms count with the stage
    that they precede, attention shared by several stages with the first of them.
    """
    _check(config, task)
    width, cube = config.width, math.prod(config.tubelet) * COLOURS
    attention, feed_forward = _block_parameters(width, config.mlp_ratio, config.qkv_bias)
    norm = 2 * width
    parts = {"embedding": (cube + 1) * width}
    if config.encoder == "vit":
        block = {"joint": attention + norm}
    else:
        parts["rep_tokens"] = num_regions(config) * width
        block = {"local": attention + norm * (2 if config.local == "cross" else 1)}
        if config.inter:
            block["inter"] = attention * (config.shared != "all") + norm
        if config.interact != "none":
            norms = norm * (2 if config.interact == "cross" else 1)
            block["interact"] = attention * (config.shared == "none") + norms
    block["feed_forward"] = feed_forward + norm
    parts |= {name: config.depth * count for name, count in block.items()}
    parts["norm"] = norm
    if task == "classify":
        return {**parts, "head": (width + 1) * num_classes}
    narrow = config.decoder_width
    attention, feed_forward = _block_parameters(narrow, config.mlp_ratio, config.qkv_bias)
    return parts | {
        "decoder_embedding": width * narrow, "mask_token": narrow,
        "decoder_joint": config.decoder_depth * (attention + 2 * narrow),
        "decoder_feed_forward": config.decoder_depth * (feed_forward + 2 * narrow),
        "decoder_norm": 2 * narrow, "decoder_head": (narrow + 1) * cube,
    }  # fmt: skip


def _block_parameters(width: int, mlp_ratio: float, qkv_bias: bool) -> tuple[int, int]:
    """Attention (keys without bias) and feed-forward layer, both without their LayerNorms."""
    hidden = int(width * mlp_ratio)
    attention = 4 * width**2 + width + (2 * width if qkv_bias else 0)
    return attention, 2 * width * hidden + hidden + width


def _check(config: ModelConfig, task: str) -> None:
    choose("task", task, get_args(ModelTask))
    if config.encoder not in BUILT_IN["encoder"]:
        raise ValueError(
            f"encoder={config.encoder!r} has no closed formula; count it with "
            "cost.tables.count_with_torch(*model_for_counting(config))"
        )


def token_grid(config: ModelConfig) -> Shape3:
    """The token grid (t, h, w) of a clip: 8 x 10 x 10 for the paper's."""
    clip, (t, h, w) = (config.frames, config.size_px, config.size_px), config.tubelet
    if clip[0] % t or clip[1] % h or clip[2] % w:
        raise ValueError(
            f"tubelet={config.tubelet} does not divide the clip {clip}; the paper's (2, 16, 16) "
            "divides 16 x 160 x 160"
        )
    return clip[0] // t, clip[1] // h, clip[2] // w


def num_regions(config: ModelConfig) -> int:
    """M, the number of local regions: 8 for the paper's."""
    grid = token_grid(config)
    if any(g % r for g, r in zip(grid, config.region, strict=True)):
        raise ValueError(
            f"region={config.region} does not divide the token grid {grid}; try region={grid}"
        )
    return math.prod(grid) // math.prod(config.region)


def _num_visible(config: ModelConfig, mask_ratio: float) -> int:
    """Visible tokens of a tube mask, equally many in every region (of a ViT: in every frame)."""
    t, h, w = token_grid(config)
    places = h * w if config.encoder == "vit" else config.region[1] * config.region[2]
    hidden = round(mask_ratio * places)
    if abs(mask_ratio * places - hidden) > 1e-6 or not 0 < hidden < places:
        raise ValueError(
            f"mask_ratio={mask_ratio} must hide a whole number of {places} places, at least 1 "
            f"and not all; try {max(1, places * 9 // 10) / places:g}"
        )
    return t * h * w * (places - hidden) // places
