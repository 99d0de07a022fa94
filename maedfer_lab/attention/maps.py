"""Attention of one clip: capture, maps of each query over the token grid, and rollout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maedfer_lab.config import ModelConfig, choose
from maedfer_lab.method.grid import Grid, check_clip
from maedfer_lab.method.models import Classifier, Encoder, MaskedAutoencoder

MAX_BYTES = 2**28
AXES: dict[str, tuple[str, ...]] = {
    "local": ("region", "head", "from representative, then tokens",
              "to representative, then tokens"),
    "inter": ("head", "from representative", "to representative"),
    "interact": ("head", "from token", "to representative"),
    "joint": ("head", "from token", "to token"),
}  # fmt: skip
STAGES = {
    "local": "1 local: inside a region",
    "inter": "2 inter: among representative tokens",
    "interact": "3 interact: to representative tokens",
    "composed": "stages 3, 2, 1 of the layer in a row",
    "rollout": "rollout through all layers",
}
JOINT = {"joint": "joint: every token to every token", "rollout": STAGES["rollout"]}


def stages_of(config: ModelConfig) -> tuple[str, ...]:
    """The stages of attention in a block of this model, in order."""
    if not config.has_regions:
        return ("joint",)
    left_out = {"inter": not config.inter, "interact": config.interact == "none"}
    return tuple(name for name in ("local", "inter", "interact") if not left_out.get(name))


def is_within_regions(stage: str, config: ModelConfig) -> bool:
    """Does this stage attend inside each region, so that its weights have a region axis?"""
    return stage == "local" or (stage == "interact" and config.interact == "self")


class TokenMap(NamedTuple):
    """How much one query attends to each token and to each representative token.

    tokens: over the token grid; NaN for hidden tokens and those the query cannot attend to.
    rep: over representative tokens, NaN likewise; empty for a ViT.

    Together they sum to 1, or are all NaN if the query does not attend at this stage.
    """

    tokens: Float[np.ndarray, "t h w"]
    rep: Float[np.ndarray, " r"]


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention weights of one clip.

    Queries and keys have the same numbers everywhere: token i of the grid is i (w fastest, then h,
    then t), representative token j is `grid.n + j`.

    index: the tokens that the encoder saw, in its order: all, or the visible ones; for LGI-Former
        region after region, equally many in each.
    layers: per layer and stage the weights, axes as in `AXES`, tokens in the order of `index`:
        "local" (r a 1+s 1+s), the representative token first; "inter" (a r r); "interact" (a v r);
        "joint" (a v v). With `local="cross"` "local" is (r a 1 s): only the representative token
        attends, and not to itself. With `interact="self"` "interact" has the axes of "local".
    heads: their numbers; empty if only their mean was kept.
    """

    config: ModelConfig
    grid: Grid
    index: Int[Tensor, " v"]
    layers: dict[int, dict[str, Tensor]]
    heads: tuple[int, ...]

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of a block, in order."""
        return stages_of(self.config)

    def axes(self, stage: str) -> tuple[str, ...]:
        """The axes of a stage's weights."""
        if stage == "local" and self.config.local == "cross":
            return ("region", "head", "from representative", "to token")
        return AXES["local" if is_within_regions(stage, self.config) else stage]

    @cached_property
    def num_regions(self) -> int:
        """M, the number of regions and of representative tokens; 0 for a ViT."""
        return self.grid.n // math.prod(self.config.region) if self.config.has_regions else 0

    @property
    def num_visible(self) -> int:
        """How many tokens the encoder saw."""
        return len(self.index)

    @cached_property
    def places(self) -> Int[np.ndarray, "v 4"]:
        """(region, t, y, x) of each token in the order of `index`; region -1 for a ViT."""
        region = np.full(self.num_visible, -1)
        if self.num_regions:
            region = np.arange(self.num_visible) // (self.num_visible // self.num_regions)
        return np.stack([region, *np.unravel_index(self.index.numpy(), self.grid.shape)], 1)

    def token(self, t: int, y: int, x: int) -> int:
        """Number of the token at a place of the grid."""
        if not all(0 <= i < side for i, side in zip((t, y, x), self.grid.shape, strict=True)):
            raise ValueError(f"place (t, y, x)={(t, y, x)} lies outside the grid {self.grid.shape}")
        return int(np.ravel_multi_index((t, y, x), self.grid.shape))

    def rep_token(self, region: int) -> int:
        """Number of the representative token of a region."""
        if not 0 <= region < self.num_regions:
            raise ValueError(f"region={region} is not one of the {self.num_regions} of this model")
        return self.grid.n + region

    def region_of(self, token: int) -> int:
        """The region that a token or representative token belongs to; -1 for a ViT."""
        rank = self.rank(token)
        return rank - self.num_visible if rank >= self.num_visible else int(self.places[rank, 0])

    def rank(self, query: int) -> int:
        """Index of a token or representative token among the encoder's v + r."""
        n, seen = self.grid.n, self.index.tolist()
        known = [*seen, *range(n, n + self.num_regions)]
        if query not in known:
            raise ValueError(
                f"query={query} is hidden by the mask, or no token at all: tokens are 0..{n - 1}, "
                f"representative ones follow ({self.num_regions}); try {seen[0]}"
            )
        return known.index(query)

    def weights(self, stage: str, layer: int, head: int | None = None) -> Tensor:
        """Weights of a stage in float32 without the head axis (None: their mean); rows sum to 1."""
        choose("stage", stage, self.stages)
        for name, value, known in (("layer", layer, [*self.layers]), ("head", head, self.heads)):
            if value is not None and value not in known:
                raise ValueError(f"{name}={value} was not kept; kept are {known or 'their mean'}")
        kept = self.layers[layer][stage].float()
        axis = kept.ndim - 3
        kept = kept.mean(axis) if head is None else kept.select(axis, head)
        return kept / kept.sum(-1, keepdim=True)  # undoes the rounding of float16

    def matrix(self, stage: str, layer: int, head: int | None = None) -> Float[Tensor, "k k"]:
        """Weights of all queries to all keys; NaN where a query cannot attend at this stage.

        Rows and columns are tokens in the encoder's order, then representative tokens.
        """
        weights = self.weights(stage, layer, head)
        if stage == "joint":
            return weights
        whole = torch.full((self.num_visible + self.num_regions,) * 2, torch.nan)
        whole[self.where(stage)] = weights
        return whole

    def where(self, stage: str) -> tuple[Tensor, Tensor]:
        """Rows and columns of a stage's weights in `matrix`."""
        tokens = torch.arange(self.num_visible)
        rep = torch.arange(self.num_visible, self.num_visible + self.num_regions)
        queries, keys = (rep if stage == "inter" else tokens, tokens if stage == "joint" else rep)
        if is_within_regions(stage, self.config):
            rep, tokens = rep.unsqueeze(1), tokens.view(self.num_regions, -1)
            queries = keys = torch.cat([rep, tokens], 1)
            if stage == "local" and self.config.local == "cross":
                queries, keys = rep, tokens
        return queries.unsqueeze(-1), keys.unsqueeze(-2)

    def over_tokens(self, stage: str, layer: int, head: int | None, query: int) -> TokenMap:
        """What `query` attends to at one stage of one layer.

        A token attends to its region and its representative token ("local"), to nothing ("inter"),
        to all representative tokens ("interact"), or to all tokens ("joint"). A representative
        token attends to itself and its region, to all representative tokens, or to nothing.
        """
        return self.to_map(self.matrix(stage, layer, head)[self.rank(query)])

    def to_map(self, row: Float[Tensor, " k"]) -> TokenMap:
        """A row over the encoder's v + r tokens as a picture; hidden tokens are NaN."""
        tokens = torch.full((self.grid.n,), torch.nan)
        tokens[self.index] = row[: self.num_visible]
        return TokenMap(tokens.view(self.grid.shape).numpy(), row[self.num_visible :].numpy())

    def paint_regions(self, rep: Float[np.ndarray, " r"]) -> Float[np.ndarray, "t h w"]:
        """One value per representative token as a picture: its region's visible tokens show it."""
        return self.to_map(torch.as_tensor(rep)[self.places[:, 0]]).tokens


def attention_bytes(
    config: ModelConfig,
    heads: Literal["mean"] | None = None,
    num_visible: int | None = None,
    dtype: torch.dtype = torch.float16,
) -> int:
    """Bytes that `capture_attention` stores with these arguments, known before it runs.

    num_visible: tokens that the encoder sees; all of the grid by default.
    """
    grid = Grid.of_clip(config.frames, config.size_px, config.size_px, config.tubelet)
    visible = grid.n if num_visible is None else num_visible
    sizes = {"joint": visible**2}
    if config.has_regions:
        regions = grid.n // math.prod(config.region)
        size = visible // regions
        within = regions * (size + 1) ** 2
        sizes = {
            "local": within if config.local == "self" else regions * size,
            "inter": regions**2,
            "interact": within if config.interact == "self" else visible * regions,
        }
    num_maps = config.depth * (1 if heads == "mean" else config.num_heads)
    return sum(sizes[stage] for stage in stages_of(config)) * num_maps * dtype.itemsize


@torch.no_grad()
def capture_attention(
    model: MaskedAutoencoder | Classifier | Encoder, clip: Float[Tensor, "3 T H W"], *,
    heads: Literal["mean"] | None = None, index: Int[Tensor, " v"] | None = None,
    max_bytes: int = MAX_BYTES, dtype: torch.dtype = torch.float16,
) -> AttentionMaps:  # fmt: skip
    """The attention weights of the model's encoder for one clip.

    The model's own blocks return them, with an explicit softmax.

    clip: pixels in [0, 1].
    heads: "mean" keeps only their mean.
    index: tokens that the encoder sees, in its order: `model.split(mask).visible[0]`; by default
        all.
    max_bytes: refuse before running if `attention_bytes` is larger.
    dtype: of the stored weights, which are on the CPU.

    Raises ValueError for a clip of another shape (or a batch), NaN in it, tokens that do not fit
    the regions, or too many bytes.
    """
    encoder = model if isinstance(model, Encoder) else model.encoder
    config = encoder.config
    if heads not in (None, "mean"):
        raise ValueError(f"heads={heads!r} must be None for all, or 'mean'")
    if isinstance(clip, Tensor) and clip.ndim == 5:
        raise ValueError(f"clip of shape {tuple(clip.shape)} is a batch; take one: clip[0]")
    batch = clip.unsqueeze(0) if isinstance(clip, Tensor) else clip
    check_clip(batch, config)
    order = encoder.all_tokens if index is None else _check_index(index, encoder)
    size = attention_bytes(config, heads, len(order), dtype)
    if size > max_bytes:
        mean = attention_bytes(config, "mean", len(order), dtype)
        raise ValueError(
            f"attention needs {size:,} bytes, more than max_bytes={max_bytes:,}; heads='mean' "
            f"keeps {mean:,}"
        )
    kept = {layer: _Kept(config, heads == "mean", dtype) for layer in range(config.depth)}
    weight = encoder.embed.proj.weight
    was_training = encoder.training
    encoder.eval()
    try:
        batch = batch.to(weight.device, weight.dtype)
        encoder(batch, order.to(weight.device).unsqueeze(0), weights=dict(kept))
    finally:
        encoder.train(was_training)
    if not all(kept.values()):
        raise ValueError(
            f"encoder={config.encoder!r} keeps no attention: its blocks must fill `weights` where "
            "they are called with it, as ViTBlock does"
        )
    found = {layer: dict(stages) for layer, stages in kept.items()}
    numbers = () if heads == "mean" else tuple(range(config.num_heads))
    return AttentionMaps(config, encoder.grid, order.cpu().clone(), found, numbers)


class _Kept(dict[str, Tensor]):
    """What a block's weights are put into, where they stay small."""

    def __init__(self, config: ModelConfig, mean: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.mean, self.dtype = config, mean, dtype

    def __setitem__(self, stage: str, weights: Tensor) -> None:
        if not is_within_regions(stage, self.config):
            weights = weights[0]  # the only clip; within regions the first axis is the region
        if self.mean:
            weights = weights.mean(weights.ndim - 3, keepdim=True)
        super().__setitem__(stage, weights.to(self.dtype).cpu())


def _check_index(index: Tensor, encoder: Encoder) -> Tensor:
    is_list = index.ndim == 1 and index.dtype in (torch.int32, torch.int64)
    values = index.tolist() if is_list else []
    known = len(set(values) & set(range(encoder.grid.n)))
    if not values or known < len(values) or len(values) % (encoder.num_regions or 1):
        raise ValueError(
            f"index of {len(index)} {index.dtype} must list different token numbers from 0 to "
            f"{encoder.grid.n - 1}, equally many of each region; use model.split(mask).visible[0]"
        )
    return index


# --- over several stages and layers: composition and rollout ---


def trace_back(
    maps: AttentionMaps,
    rows: Float[Tensor, "q k"],
    *,
    layers: Sequence[int] | None = None,
    residual: float = 0.5,
) -> Float[Tensor, "q k"]:
    """Rows over augmented tokens after the last of `layers`, as rows before the first of them.

    A row is a distribution over v tokens in the encoder's order and then r representative tokens:
    how much each contributes to a quantity after a stage. A stage is the row-stochastic matrix

        S = (1 - residual) A + residual I

    with A its attention (mean over the kept heads) for those that attend, the identity for others:

        local     [s_i; X_i] to [s_i; X_i] within each region  ("cross": s_i to X_i, tokens stay)
        inter     s_1 ... s_M among themselves                 (tokens stay)
        interact  every token to s_1 ... s_M, s_i stay         ("self": as local)
        joint     every token to every token                   (ViT)

    A row before the stages of a block is the row after them times S_interact S_inter S_local; the
    feed-forward layer draws from nowhere else.

    layers: all of the encoder's by default.
    residual: weight of the residual connection at each stage; 0.5 as in attention rollout
        (Abnar and Zuidema 2020), 0 uses attention alone.
    """
    if not 0 <= residual < 1:
        raise ValueError(f"residual={residual} must lie in [0, 1); rollout uses 0.5")
    for layer in sorted(maps.layers if layers is None else layers, reverse=True):
        for stage in reversed(maps.stages):
            whole, where = torch.eye(rows.shape[1]), maps.where(stage)
            whole[where[0].flatten()] = 0  # the others keep what they have
            whole[where] = maps.weights(stage, layer)
            rows = residual * rows + (1 - residual) * rows @ whole
    return rows


def look_through(maps: AttentionMaps, layer: int, query: int) -> TokenMap:
    """What `query` attends to through all stages of one block, without residuals.

    A token reads the representative tokens (stage 3), which have read each other (stage 2) and
    their regions (stage 1): the product of the three without residuals, so that it sees the whole
    clip. Heads of different stages do not correspond, so they are averaged.
    """
    row = torch.eye(maps.num_visible + maps.num_regions)[[maps.rank(query)]]
    return maps.to_map(trace_back(maps, row, layers=[layer], residual=0.0)[0])


@dataclass(frozen=True, eq=False)
class Rollout:
    """Contributions of the encoder's inputs to its outputs: `matrix` (v+r, v+r), rows sum to 1.

    Rows and columns in the encoder's order, tokens first. Columns of representative tokens are
    their learned initial vectors: attention that ends there read nothing of the clip.
    """

    matrix: Float[Tensor, "k k"]
    maps: AttentionMaps

    def over_tokens(self, query: int) -> TokenMap:
        """Contributions to one output token."""
        return self.maps.to_map(self.matrix[self.maps.rank(query)])


def rollout(maps: AttentionMaps, residual: float = 0.5) -> Rollout:
    """Attention rollout through all stages of all layers, the last one leftmost."""
    count = maps.num_visible + maps.num_regions
    return Rollout(trace_back(maps, torch.eye(count), residual=residual), maps)


def stages_to_ask(config: ModelConfig) -> dict[str, str]:
    """The stages that can be shown for a query: name and label."""
    names = (*stages_of(config), *(("composed",) if config.has_regions else ()), "rollout")
    return {name: (STAGES | JOINT)[name] for name in names}


def all_queries(
    maps: AttentionMaps, stage: str, layer: int, head: int | None
) -> tuple[Float[Tensor, "k k"], Bool[Tensor, " k"]]:
    """Weights of every query to every key, and which queries attend at all (other rows are zero).

    stage: one of `maps.stages`, "composed" (all of the layer in a row, as `look_through`) or
    "rollout". head: one of `maps.heads`, or None for their mean, which composed and rollout take.
    """
    count = maps.num_visible + maps.num_regions
    attends = torch.ones(count, dtype=torch.bool)
    if stage == "rollout":
        return rollout(maps).matrix, attends
    if stage == "composed":
        return trace_back(maps, torch.eye(count), layers=[layer], residual=0.0), attends
    matrix = maps.matrix(stage, layer, head)
    return matrix.nan_to_num(), ~matrix.isnan().all(1)
