"""Attention of all queries of a clip at once, as one matrix, for viewers."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maedfer_lab.attention.maps import AttentionMaps, is_within_regions
from maedfer_lab.attention.tracing import rollout, trace_back
from maedfer_lab.method.models import Encoder

STAGES = {
    "local": "1 local: inside a region",
    "inter": "2 inter: among representative tokens",
    "interact": "3 interact: to representative tokens",
    "composed": "stages 3, 2, 1 of the layer in a row",
    "rollout": "rollout through all layers",
}
JOINT = {"joint": "joint: every token to every token", "rollout": STAGES["rollout"]}


def stages_to_ask(encoder: Encoder) -> dict[str, str]:
    """What a query can be followed through in an LGI-Former: name and words."""
    config = encoder.config
    is_there = {"inter": config.inter, "interact": config.interact != "none"}
    return {name: words for name, words in STAGES.items() if is_there.get(name, True)}


def all_queries(
    maps: AttentionMaps, stage: str, layer: int, head: int | None
) -> tuple[Float[Tensor, "k k"], Bool[Tensor, " k"]]:
    """Weights of every query to every key, and which queries attend at all (other rows are zero).

    Queries and keys are tokens in the encoder's order, then representative tokens. stage: one of
    `maps.stages`, "composed" (all stages of the layer in a row, as `look_through`) or "rollout".
    head: one of `maps.heads`, or None for their mean; composed and rollout take the mean.
    """
    visible, regions = maps.num_visible, maps.num_regions
    count = visible + regions
    attends = torch.ones(count, dtype=torch.bool)
    if stage == "rollout":
        return rollout(maps).matrix, attends
    if stage == "composed":
        return trace_back(maps, torch.eye(count), layers=[layer], residual=0.0), attends
    weights = maps.weights(stage, layer, head if maps.heads else None)
    matrix = torch.zeros(count, count)
    if stage == "joint":
        return weights, attends
    if stage == "inter":
        matrix[visible:, visible:] = weights
        attends[:visible] = False
        return matrix, attends
    if not is_within_regions(stage, maps.config):
        matrix[:visible, visible:] = weights
        attends[visible:] = False
        return matrix, attends
    size = visible // regions
    for j in range(regions):
        tokens = torch.arange(j * size, (j + 1) * size)
        members = torch.cat([torch.tensor([visible + j]), tokens])
        if weights.shape[1] == 1:  # the representative token alone looks, at its region
            matrix[visible + j, tokens] = weights[j, 0]
        else:
            matrix[members[:, None], members[None]] = weights[j]
    if weights.shape[1] == 1:
        attends[:visible] = False
    return matrix, attends
