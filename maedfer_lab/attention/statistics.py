"""How local and how sharp attention is, for each layer, stage and head."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maedfer_lab.attention.maps import AttentionMaps, is_within_regions
from maedfer_lab.attention.tracing import Rollout
from maedfer_lab.config import Shape3
from maedfer_lab.method.grid import region_index


@dataclass(frozen=True)
class Reach:
    """How far attention reaches, a mean over queries.

    frames: along time, |t - t'| steps of the grid, in frames of the clip.
    pixels: in the picture, the Euclidean distance, in pixels of the clip.
    """

    frames: float
    pixels: float


@dataclass(frozen=True)
class HeadStatistics:
    """One head (None: the mean of all) of one stage of one layer.

    entropy: of a query's attention in nats, a mean over queries; exp(entropy) is about how many
        keys it is spread over.
    relative_entropy: divided by the largest possible, log(number of keys): 1 is uniform.
    reach: mean distance from query to key, weighted by attention. Representative tokens stand at
        the mean place of their region's tokens.
    uniform: the reach that uniform attention would have at this stage.
    """

    layer: int
    stage: str
    head: int | None
    entropy: float
    relative_entropy: float
    reach: Reach
    uniform: Reach


def attention_statistics(maps: AttentionMaps) -> list[HeadStatistics]:
    """Entropy and reach of every kept layer, stage and head."""
    found = []
    heads: tuple[int | None, ...] = maps.heads or (None,)
    for stage in maps.stages:
        distances = _distances(maps, stage)
        for layer in sorted(maps.layers):
            for head in heads:
                weights = maps.weights(stage, layer, head)
                uniform = torch.full_like(weights, 1 / weights.shape[-1])
                entropy = float(torch.special.entr(weights).sum(-1).mean())
                most = math.log(weights.shape[-1])
                found.append(
                    HeadStatistics(
                        layer,
                        stage,
                        head,
                        entropy,
                        entropy / most if most else 1.0,
                        _reach(maps, weights, *distances),
                        _reach(maps, uniform, *distances),
                    )
                )
    return found


@dataclass(frozen=True)
class RolloutStatistics:
    """Where a token's output draws from, a mean over the tokens of a clip.

    reach: distance to the tokens that it draws from.
    outside: the part that comes from tokens outside its region.
    uniform_reach, uniform_outside: the same if it drew evenly from all tokens.

    Weight that ends in representative tokens has no place in the clip and is left out.
    """

    reach: Reach
    outside: float
    uniform_reach: Reach
    uniform_outside: float


def rollout_statistics(rolled: Rollout, region: Shape3) -> RolloutStatistics:
    """How far a rollout reaches.

    region: in tokens (t, h, w), by place; a ViT has none, but can be measured with another's.
    """
    maps = rolled.maps
    order = region_index(maps.grid, region)
    region_of = torch.empty(maps.grid.n, dtype=torch.long)
    region_of[order.flatten()] = torch.arange(len(order)).repeat_interleave(order.shape[1])
    own = region_of[maps.index]
    elsewhere = own[:, None] != own
    places = torch.as_tensor(maps.places[:, 1:]).float()
    distances = _apart(places, places)
    drawn = rolled.matrix[: maps.num_visible, : maps.num_visible]
    drawn = drawn / drawn.sum(-1, keepdim=True)
    even = torch.full_like(drawn, 1 / len(drawn))
    return RolloutStatistics(
        _reach(maps, drawn, *distances),
        float((drawn * elsewhere).sum(-1).mean()),
        _reach(maps, even, *distances),
        float((even * elsewhere).sum(-1).mean()),
    )


def _distances(maps: AttentionMaps, stage: str) -> tuple[Tensor, Tensor]:
    """Distances in t and in (y, x) from each query to each key, as the stage's weights lie."""
    places = torch.as_tensor(maps.places[:, 1:]).float()
    if stage == "joint":
        return _apart(places, places)
    reps = torch.as_tensor(maps.rep_places).float()
    if stage == "inter":
        return _apart(reps, reps)
    if not is_within_regions(stage, maps.config):
        return _apart(places, reps)
    tokens = places.unflatten(0, (maps.num_regions, -1))
    both = torch.cat([reps.unsqueeze(1), tokens], 1)
    if stage == "local" and maps.config.local == "cross":
        return _apart(reps.unsqueeze(1), tokens)
    return _apart(both, both)


def _apart(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    apart = a.unsqueeze(-2) - b.unsqueeze(-3)
    return apart[..., 0].abs(), apart[..., 1:].norm(dim=-1)


def _reach(maps: AttentionMaps, weights: Tensor, t: Tensor, yx: Tensor) -> Reach:
    frames, pixels, _ = maps.config.tubelet
    return Reach(
        float((weights * t).sum(-1).mean()) * frames,
        float((weights * yx).sum(-1).mean()) * pixels,
    )
