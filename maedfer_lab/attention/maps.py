"""Attention weights of one clip, and where each query looks as a picture over the token grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from maedfer_lab.config import ModelConfig, choose
from maedfer_lab.method.grid import Grid

AXES: dict[str, tuple[str, ...]] = {
    "local": (
        "region",
        "head",
        "from representative, then tokens",
        "to representative, then tokens",
    ),
    "inter": ("head", "from representative", "to representative"),
    "interact": ("head", "from token", "to representative"),
    "joint": ("head", "from token", "to token"),
}


def stages_of(config: ModelConfig) -> tuple[str, ...]:
    """The stages of attention that a block of this model has, in the order in which they run."""
    if not config.has_regions:
        return ("joint",)
    return (
        "local",
        *(("inter",) if config.inter else ()),
        *(("interact",) if config.interact != "none" else ()),
    )


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

    @property
    def is_empty(self) -> bool:
        """Does the query not attend at all at this stage?"""
        return bool(np.isnan(self.tokens).all() and np.isnan(self.rep).all())

    @property
    def rep_share(self) -> float:
        """The part of the attention that goes to representative tokens."""
        return float(np.nansum(self.rep))


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

    @cached_property
    def _ranks(self) -> dict[int, int]:
        ranks = {token: rank for rank, token in enumerate(self.index.tolist())}
        reps = {self.grid.n + j: self.num_visible + j for j in range(self.num_regions)}
        return ranks | reps

    def token(self, t: int, y: int, x: int) -> int:
        """Number of the token at a place of the grid."""
        if not all(0 <= i < side for i, side in zip((t, y, x), self.grid.shape, strict=True)):
            raise ValueError(f"place (t, y, x)={(t, y, x)} lies outside the grid {self.grid.shape}")
        return int(np.ravel_multi_index((t, y, x), self.grid.shape))

    def rep_token(self, region: int) -> int:
        """Number of the representative token of a region."""
        if not 0 <= region < self.num_regions:
            raise ValueError(
                f"region={region} must lie in 0..{self.num_regions - 1}"
                if self.num_regions
                else "a ViT has no representative tokens; ask for a token of the grid"
            )
        return self.grid.n + region

    def region_of(self, token: int) -> int:
        """The region that a token or representative token belongs to; -1 for a ViT."""
        rank = self.rank(token)
        return rank - self.num_visible if rank >= self.num_visible else int(self.places[rank, 0])

    def rank(self, query: int) -> int:
        """Where a token or representative token stands among the encoder's v + r."""
        if query in self._ranks:
            return self._ranks[query]
        if 0 <= query < self.grid.n:
            raise ValueError(
                f"query={query} is hidden by the mask, so that the encoder never saw it; visible "
                f"are {', '.join(map(str, self.index[:4].tolist()))}, ..."
            )
        raise ValueError(
            f"query={query} is no token: 0..{self.grid.n - 1} are tokens of the grid"
            + (f", {self.grid.n}..{self.grid.n + self.num_regions - 1} representative tokens"
               if self.num_regions else "")
        )  # fmt: skip

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

    def over_tokens(self, stage: str, layer: int, head: int | None, query: int) -> TokenMap:
        """Where `query` looks at one stage of one layer.

        A token looks at its region and its representative token ("local"), at nothing ("inter"),
        at all representative tokens ("interact"), or at all tokens ("joint"). A representative
        token looks at itself and its region, at its like, or at nothing.
        """
        weights, rank = self.weights(stage, layer, head), self.rank(query)
        visible, regions = self.num_visible, self.num_regions
        row = torch.full((visible + regions,), torch.nan)
        is_rep = rank >= visible
        if stage == "joint":
            row[:] = weights[rank]
        elif stage == "inter" and is_rep:
            row[visible:] = weights[rank - visible]
        elif stage == "interact" and weights.ndim == 2 and not is_rep:
            row[visible:] = weights[rank]
        elif weights.ndim == 3:  # within a region
            size = visible // regions
            region, place = (rank - visible, 0) if is_rep else (rank // size, rank % size + 1)
            tokens = slice(region * size, (region + 1) * size)
            if weights.shape[1] > 1:
                row[visible + region] = weights[region, place, 0]
                row[tokens] = weights[region, place, 1:]
            elif is_rep:
                row[tokens] = weights[region, 0]
        return self.to_map(row, query)

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
