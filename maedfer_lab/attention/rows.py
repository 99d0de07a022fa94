"""Attention of one query as rows of pictures, for `figures`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from maedfer_lab.attention.maps import AttentionMaps
from maedfer_lab.attention.tracing import look_through, rollout
from maedfer_lab.config import ModelConfig


def attention_rows(maps: AttentionMaps, layer: int, query: int) -> list[dict[str, Any]]:
    """What a token of the grid looks at in one layer, stage by stage and composed, and by rollout.

    Each row: `label`, and `weights` over the token grid as nested lists, None where there are
    none. Weights are means over the kept heads. Rollout needs all layers to have been kept.
    """

    def shown(stage: str, of: int) -> Float[np.ndarray, "t h w"]:
        found = maps.over_tokens(stage, layer, None, of)
        return maps.paint_regions(found.rep) if np.isnan(found.tokens).all() else found.tokens

    rows: list[tuple[str, np.ndarray]] = []
    if maps.num_regions:
        rep = maps.rep_token(maps.region_of(query))
        rows.append(("1 local:\nits representative\ntoken looks at", shown("local", rep)))
        if "inter" in maps.stages:
            rows.append(("2 inter:\nthat one looks at\nthe regions", shown("inter", rep)))
        if "interact" in maps.stages:
            rows.append(("3 interact:\nthe cube looks at\nthe regions", shown("interact", query)))
        rows.append(("stages 3, 2, 1\nin a row", look_through(maps, layer, query).tokens))
    else:
        rows.append(("joint:\nthe cube looks at", shown("joint", query)))
    rows.append(("rollout through\nall layers", rollout(maps).over_tokens(query).tokens))
    return [{"label": label, "weights": as_lists(weights)} for label, weights in rows]


def as_lists(values: np.ndarray) -> Any:
    """Nested lists for a JSON file, four digits, None for NaN."""
    if values.ndim:
        return [as_lists(part) for part in values]
    return None if np.isnan(values) else float(f"{values:.4g}")


@dataclass(frozen=True)
class RegionName:
    """Where a local region lies.

    step, window: number of its span of frames, and of its window within the frame.
    label: its frames, and its rows and columns of pixels where there are several.
    """

    step: int
    window: int
    label: str


def region_names(config: ModelConfig) -> list[RegionName]:
    """The regions of an LGI-Former, in order."""
    spans = [size * cube for size, cube in zip(config.region, config.tubelet, strict=True)]
    whole = (config.frames, config.size_px, config.size_px)
    steps, tall, wide = (total // span for total, span in zip(whole, spans, strict=True))

    def label(*place: int) -> str:
        parts = [
            f"{name} {i * span}-{(i + 1) * span - 1}"
            for name, i, span, count in zip(
                ("frames", "y", "x"), place, spans, (2, tall, wide), strict=True
            )
            if count > 1
        ]
        return ", ".join(parts)

    return [
        RegionName(t, y * wide + x, label(t, y, x))
        for t in range(steps)
        for y in range(tall)
        for x in range(wide)
    ]
