"""Attention weights of one clip: captured, and where each query looks over the token grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from maedfer_lab.config import ModelConfig, choose
from maedfer_lab.method.grid import Grid, check_clip
from maedfer_lab.method.models import Classifier, Encoder, MaskedAutoencoder

Heads = Sequence[int] | Literal["mean"] | None
MAX_BYTES = 2**28
AXES: dict[str, tuple[str, ...]] = {
    "local": ("region", "head", "from representative, then tokens",
              "to representative, then tokens"),
    "inter": ("head", "from representative", "to representative"),
    "interact": ("head", "from token", "to representative"),
    "joint": ("head", "from token", "to token"),
}  # fmt: skip


def stages_of(config: ModelConfig) -> tuple[str, ...]:
    """The stages of attention that a block of this model has, in the order in which they run."""
    if not config.has_regions:
        return ("joint",)
    left_out = {"inter": not config.inter, "interact": config.interact == "none"}
    return tuple(name for name in ("local", "inter", "interact") if not left_out.get(name))


def is_within_regions(stage: str, config: ModelConfig) -> bool:
    """Does this stage attend inside each region, so that its weights have a region axis?"""
    return stage == "local" or (stage == "interact" and config.interact == "self")


@dataclass(frozen=True, eq=False)
class TokenMap:
    """How much one query attends to each token and to each representative token.

    tokens: over the token grid (t, h, w); NaN where a token is hidden by the mask, or is not
        among what this query can attend to.
    rep: over representative tokens, NaN likewise; empty for a ViT.
    query: the number of the query, counted as in `AttentionMaps`.

    Together they sum to 1, or are all NaN where the query does not attend at this stage.
    """

    tokens: Float[np.ndarray, "t h w"]
    rep: Float[np.ndarray, " r"]
    query: int


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention weights of one clip, for chosen layers and heads.

    Queries and keys are counted alike everywhere: token i of the grid is i (w fastest, then h,
    then t), representative token j is `grid.n + j`.

    index: the tokens that the encoder saw, in its order: all of them, or the visible ones; for
        LGI-Former region after region, equally many in each.
    layers: per layer and stage the weights, float16 unless asked otherwise, axes as in `AXES`,
        tokens in the order of `index`: "local" (r a 1+s 1+s), the representative token first;
        "inter" (a r r); "interact" (a v r); "joint" (a v v). With `local="cross"` "local" is
        (r a 1 s): the representative token alone looks, and not at itself. With
        `interact="self"` "interact" has the axes of "local".
    heads: numbers of the heads that were kept; empty where only their mean was.
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
        """What the axes of a stage's kept weights are."""
        choose("stage", stage, self.stages)
        if stage == "local" and self.config.local == "cross":
            return ("region", "head", "from representative", "to token")
        return AXES["local" if is_within_regions(stage, self.config) else stage]

    @cached_property
    def num_regions(self) -> int:
        """M, the number of regions and of representative tokens; 0 for a ViT."""
        if not self.config.has_regions:
            return 0
        t, h, w = self.config.region
        return self.grid.n // (t * h * w)

    @property
    def num_visible(self) -> int:
        """How many tokens the encoder saw."""
        return len(self.index)

    @property
    def nbytes(self) -> int:
        """Size of the kept weights."""
        return sum(w.nbytes for stages in self.layers.values() for w in stages.values())

    @cached_property
    def places(self) -> Int[np.ndarray, "v 4"]:
        """(region, t, y, x) of each token in the order of `index`; region -1 for a ViT."""
        rank, order = np.arange(self.num_visible), self.index.numpy()
        region = np.full_like(rank, -1)
        if self.num_regions:
            region = rank // (self.num_visible // self.num_regions)
        return np.stack([region, *np.unravel_index(order, self.grid.shape)], 1)

    @cached_property
    def rep_places(self) -> Float[np.ndarray, "r 3"]:
        """(t, y, x) at which a representative token is said to stand: the mean of its tokens."""
        if not self.num_regions:
            return np.zeros((0, 3))
        return self.places[:, 1:].reshape(self.num_regions, -1, 3).mean(1)

    def token(self, t: int, y: int, x: int) -> int:
        """Number of the token at a place of the grid."""
        if not all(0 <= i < side for i, side in zip((t, y, x), self.grid.shape, strict=True)):
            raise ValueError(f"place (t, y, x)={(t, y, x)} lies outside the grid {self.grid.shape}")
        return int(np.ravel_multi_index((t, y, x), self.grid.shape))

    def rep_token(self, region: int) -> int:
        """Number of the representative token of a region."""
        if not self.num_regions:
            raise ValueError("a ViT has no representative tokens; ask for a token of the grid")
        if not 0 <= region < self.num_regions:
            raise ValueError(f"region={region} must lie in 0..{self.num_regions - 1}")
        return self.grid.n + region

    def region_of(self, token: int) -> int:
        """The region that a token or representative token belongs to; -1 for a ViT."""
        rank = self.rank(token)
        return rank - self.num_visible if rank >= self.num_visible else int(self.places[rank, 0])

    def rank(self, query: int) -> int:
        """Where a token or representative token stands among the encoder's v + r."""
        ranks = {token: rank for rank, token in enumerate(self.index.tolist())}
        ranks |= {self.grid.n + j: self.num_visible + j for j in range(self.num_regions)}
        if query in ranks:
            return ranks[query]
        if 0 <= query < self.grid.n:
            raise ValueError(
                f"query={query} is hidden by the mask, so that the encoder never saw it; visible "
                f"are {', '.join(map(str, self.index[:4].tolist()))}, ..."
            )
        raise ValueError(
            f"query={query} is no token: 0..{self.grid.n - 1} are tokens of the grid"
            + f", {self.grid.n}..{self.grid.n + self.num_regions - 1} representative tokens"
            * (self.num_regions > 0)
        )

    def weights(self, stage: str, layer: int, head: int | None = None) -> Tensor:
        """Weights of a stage in float32 without the head axis; rows sum to 1.

        head: one of `heads`, or None for the mean over those that were kept.
        """
        choose("stage", stage, self.stages)
        if layer not in self.layers:
            raise ValueError(f"layer={layer} was not kept; kept are {sorted(self.layers)}")
        kept = self.layers[layer][stage].float()
        axis = kept.ndim - 3
        if head is None:
            kept = kept.mean(axis)
        elif head in self.heads:
            kept = kept.select(axis, self.heads.index(head))
        else:
            known = list(self.heads) or "only their mean (head=None)"
            raise ValueError(f"head={head} was not kept; kept are {known}")
        return kept / kept.sum(-1, keepdim=True)  # undoes the rounding of float16

    def matrix(self, stage: str, layer: int, head: int | None = None) -> Float[Tensor, "k k"]:
        """Weights of all queries to all keys; NaN where a query cannot look at this stage.

        Rows and columns are tokens in the encoder's order, then representative tokens.
        """
        weights = self.weights(stage, layer, head)
        visible, regions = self.num_visible, self.num_regions
        if stage == "joint":
            return weights
        whole = torch.full((visible + regions, visible + regions), torch.nan)
        if stage == "inter":
            whole[visible:, visible:] = weights
        elif weights.ndim == 2:
            whole[:visible, visible:] = weights
        else:
            tokens = torch.arange(visible).view(regions, -1)
            rep = torch.arange(visible, visible + regions).unsqueeze(1)
            members = torch.cat([rep, tokens], 1)
            alone = weights.shape[1] == 1  # the representative token looks, at its region
            queries, keys = (rep, tokens) if alone else (members, members)
            whole[queries.unsqueeze(2), keys.unsqueeze(1)] = weights
        return whole

    def over_tokens(self, stage: str, layer: int, head: int | None, query: int) -> TokenMap:
        """Where `query` looks at one stage of one layer.

        A token looks at its region and its representative token ("local"), at nothing ("inter"),
        at all representative tokens ("interact"), or at all tokens ("joint"). A representative
        token looks at itself and its region, at its like, or at nothing.
        """
        return self.to_map(self.matrix(stage, layer, head)[self.rank(query)], query)

    def to_map(self, row: Float[Tensor, " k"], query: int) -> TokenMap:
        """A row over the encoder's v + r tokens as a picture; hidden tokens are NaN."""
        tokens = torch.full((self.grid.n,), torch.nan)
        tokens[self.index] = row[: self.num_visible]
        return TokenMap(
            tokens.view(self.grid.shape).numpy(), row[self.num_visible :].numpy().copy(), query
        )

    def paint_regions(self, rep: Float[np.ndarray, " r"]) -> Float[np.ndarray, "t h w"]:
        """One value per representative token as a picture: its region's tokens show it.

        For stages whose keys are representative tokens alone. Hidden tokens are NaN.
        """
        row = torch.zeros(self.num_visible + self.num_regions)
        row[: self.num_visible] = torch.as_tensor(rep)[self.places[:, 0]]
        return self.to_map(row, -1).tokens


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
    num_layers = len(_numbers("layers", layers, config.depth))
    num_heads = 1 if heads == "mean" else len(_heads(config, heads))
    grid = Grid.of_clip(config.frames, config.size_px, config.size_px, config.tubelet)
    visible = grid.n if num_visible is None else num_visible
    if not config.has_regions:
        values = visible**2
    else:
        regions = grid.n // math.prod(config.region)
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
    model: MaskedAutoencoder | Classifier | Encoder, clip: Float[Tensor, "3 T H W"], *,
    layers: Sequence[int] | None = None, heads: Heads = None,
    index: Int[Tensor, " v"] | None = None, max_bytes: int = MAX_BYTES,
    dtype: torch.dtype = torch.float16,
) -> AttentionMaps:  # fmt: skip
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

    Raises ValueError for a clip of another shape (or a batch), NaN in it, layers or heads that do
    not exist, tokens that do not fit the regions, or too many bytes (saying which layers fit).
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
    chosen_layers, chosen_heads = _numbers("layers", layers, config.depth), _heads(config, heads)
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
    kept_heads = () if heads == "mean" else tuple(chosen_heads)
    return AttentionMaps(config, grid, order.cpu().clone(), found, kept_heads)


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
