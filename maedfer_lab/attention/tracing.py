"""Attention over several stages and layers: composition and rollout.

A row is a distribution over v tokens in the encoder's order and then r representative tokens: how
much each contributes to a quantity after a stage. A stage is the row-stochastic matrix

    S = (1 - residual) A + residual I

with A its attention (mean over the kept heads) for those that attend, the identity for those that
do not:

    local     [s_i; X_i] to [s_i; X_i] within each region  ("cross": s_i to X_i, tokens stay)
    inter     s_1 ... s_M among themselves                 (tokens stay)
    interact  every token to s_1 ... s_M, s_i stay         ("self": as local)
    joint     every token to every token                   (ViT)

A row before the stages of a block is the row after them times S_interact S_inter S_local; the
feed-forward layer draws from nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maedfer_lab.attention.maps import AttentionMaps, TokenMap, stages_of
from maedfer_lab.config import ModelConfig

STAGES = {
    "local": "1 local: inside a region",
    "inter": "2 inter: among representative tokens",
    "interact": "3 interact: to representative tokens",
    "composed": "stages 3, 2, 1 of the layer in a row",
    "rollout": "rollout through all layers",
}
JOINT = {"joint": "joint: every token to every token", "rollout": STAGES["rollout"]}


def trace_back(
    maps: AttentionMaps,
    rows: Float[Tensor, "q k"],
    *,
    layers: Sequence[int] | None = None,
    residual: float = 0.5,
) -> Float[Tensor, "q k"]:
    """Rows over augmented tokens after the last of `layers`, as rows before the first of them.

    layers: all of the encoder's by default.
    residual: weight of the residual connection at each stage; 0.5 as in attention rollout
        (Abnar and Zuidema 2020), 0 uses attention alone.
    """
    if not 0 <= residual < 1:
        raise ValueError(f"residual={residual} must lie in [0, 1); rollout uses 0.5")
    for layer in sorted(maps.layers if layers is None else layers, reverse=True):
        for stage in reversed(maps.stages):
            matrix = maps.matrix(stage, layer)
            stays = matrix.isnan().all(1).float()  # tokens that do not attend keep what they have
            read = rows @ matrix.nan_to_num() + rows * stays
            rows = residual * rows + (1 - residual) * read
    return rows


def look_through(maps: AttentionMaps, layer: int, query: int) -> TokenMap:
    """What `query` attends to through all stages of one block, without residuals.

    A token reads the representative tokens (stage 3), which have read each other (stage 2) and
    their regions (stage 1): the product of the three without residuals, so that it sees the whole
    clip. Heads of different stages do not correspond, so they are averaged.
    """
    row = torch.zeros(1, maps.num_visible + maps.num_regions)
    row[0, maps.rank(query)] = 1
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
