"""AttentionViewer: what any token of a clip attends to, at any stage, layer and head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from maedfer_lab.attention import maps as attention_maps
from maedfer_lab.attention.maps import (
    JOINT,
    STAGES,
    AttentionMaps,
    all_queries,
    capture_attention,
    is_within_regions,
    stages_to_ask,
)
from maedfer_lab.fast import speed_up
from maedfer_lab.method.grid import region_index
from maedfer_lab.method.models import Classifier, Encoder, MaskedAutoencoder
from maedfer_lab.viewers import scene
from maedfer_lab.viewers.player import Player, control, pick, pick_clip, whole_number

Model = MaskedAutoencoder | Classifier | Encoder
Pictures = Iterator[tuple[dict[str, Any], np.ndarray]]
MEANS = ("composed", "rollout")  # stages over which heads are averaged


@dataclass(frozen=True)
class AttentionSettings:
    """What is shown.

    layer: counted from 0, of the model with most layers; others show their nearest in proportion.
    query: a token, counted as in `AttentionMaps`; the initial one in files and on a fresh page.
    head: number, or None for the mean over heads.
    overview: all layers and heads of the first model, for that query.
    """

    clip: str
    stage: str
    layer: int
    query: int
    head: int | None = None
    overview: bool = False


class AttentionViewer(Player[AttentionSettings]):
    """Attention of one query over the clip, next to the clip; several models side by side.

    models: a model (autoencoder, classifier or encoder; LGI-Former or ViT), or {name: model} with
        equal token grids.
    clips: one clip (3, T, H, W) with pixels in [0, 1], a batch or list of them, or {name: clip}.
    stage: local, inter, interact, composed or rollout (`attention.maps`); a ViT shows its joint
        attention for the first four.
    layer: from 0, by default the last. head: from 0, or None for the mean.
    query: (t, y, x) of a cube, by default the middle of the first frame, or the number of a
        representative token.
    fps: frames of the clips per second, if known.

    The weights of every query are in the browser, so that clicks need no kernel; the model's own
    code captures them once per clip. All layers and heads can be shown at once, for one query.
    """

    kind = "attention"

    def __init__(
        self, models: Model | Mapping[str, Model], clips: scene.Clips, *, stage: str | None = None,
        layer: int | None = None, head: int | None = None,
        query: tuple[int, int, int] | int | None = None, fps: float | None = None,
    ) -> None:  # fmt: skip
        named = dict(models) if isinstance(models, Mapping) else {"model": models}
        if not named:
            raise ValueError("models is empty; give one model or {name: model}")
        self.encoders = {str(name): _encoder(model) for name, model in named.items()}
        every = [*self.encoders.values()]
        self.grid, self.config = every[0].grid, every[0].config
        for name, encoder in self.encoders.items():
            if (encoder.grid, encoder.config.tubelet) != (self.grid, self.config.tubelet):
                raise ValueError(
                    f"model {scene.plain(name)!r} has the token grid {encoder.grid.shape}, the "
                    f"first one {self.grid.shape}; models side by side need equal grids and cubes"
                )
        self.clips = scene.name_clips(clips, *(encoder.config for encoder in every))
        self._lgi = next((e for e in every if e.num_regions), None)
        self._stages = stages_to_ask((self._lgi or every[0]).config)
        self._depth = max(e.config.depth for e in every)
        sizes = [attention_maps.attention_bytes(e.config) for e in every]
        self._keep: Any = "mean" if max(sizes) > attention_maps.MAX_BYTES else None
        self._heads = 0 if self._keep else min(e.config.num_heads for e in every)
        self._captured: dict[str, dict[str, AttentionMaps]] = {}
        middle = self._number((0, self.grid.h // 2, self.grid.w // 2))  # shown first
        first = next(iter(self.clips)), next(iter(self._stages))
        now = AttentionSettings(*first, self._depth - 1, middle)
        for name, value in {"stage": stage, "layer": layer, "head": head, "query": query}.items():
            now = now if value is None else self._changed(now, name, value)
        super().__init__(now, fps)

    def _number(self, query: Any) -> int:
        """A query as `AttentionMaps` counts it."""
        shape, regions = self.grid.shape, self._lgi.num_regions if self._lgi else 0
        if isinstance(query, int) and not isinstance(query, bool) and regions:
            return self.grid.n + whole_number("query", query, regions)
        place = tuple(query) if isinstance(query, Sequence) else ()
        if len(place) != 3 or not all(0 <= i < n for i, n in zip(place, shape, strict=True)):
            raise ValueError(
                f"query={query} must be (t, y, x) inside the grid {shape}, or the number of one of "
                f"the {regions} representative tokens (a ViT has none); try (0, 0, 0)"
            )
        return int(np.ravel_multi_index(place, shape))

    def _changed(self, now: AttentionSettings, name: str, value: Any) -> AttentionSettings:
        if name == "overview":  # of the query that the browser shows
            rep, token = value["query"].get("rep"), value["query"].get("token")
            query = whole_number("token", token, self.grid.n) if rep is None else self._number(rep)
            return replace(now, overview=bool(value["value"]), query=query)
        if name == "open":
            number = next(iter(self.encoders.values())).config.depth * max(1, self._heads)
            layer, head = divmod(whole_number(name, value, number), max(1, self._heads))
            return replace(now, layer=layer, head=head if self._heads else None, overview=False)
        if name == "layer":
            value = whole_number(name, value, self._depth)
        elif name == "head" and value in (None, "mean"):
            value = None
        elif name == "head":
            if not self._heads:
                raise ValueError(f"head={value}: only the mean over heads was kept, to save memory")
            value = whole_number(name, value, self._heads)
        elif name == "query":
            value = self._number(value)
        else:
            pick("name", name, ("clip", "stage", "layer", "head", "query", "overview", "open"))
            value = pick(name, value, self.clips if name == "clip" else self._stages)
        return replace(now, **{name: value})

    def _maps(self, clip: str) -> dict[str, AttentionMaps]:
        """The attention of every model on a clip; that of the last clip is cached."""
        if clip not in self._captured:
            maps = partial(capture_attention, clip=self.clips[clip], heads=self._keep)
            self._captured = {clip: {name: maps(one) for name, one in self.encoders.items()}}
        return self._captured[clip]

    # ------------------------------------------------------------------ looks

    def _look(self, now: AttentionSettings) -> scene.View:
        rep, rows, table = now.query - self.grid.n, [], []
        overlays: list[dict[str, Any]] = []
        frames, tubelet = scene.frames_of(self.clips[now.clip]), self.config.tubelet
        pictures = self._overview(now) if now.overview else self._every_query(now)
        scale = {"low": "0", "high": "most", "colours": scene.legend_colours(scene.COLOURS)}
        for overlay, weights in pictures:
            own = overlay.pop("row", 0)
            draw = partial(scene.painted, frames, weights[own].reshape(self.grid.shape), tubelet)
            more = {"overlay": len(overlays)} | ({} if now.overview else {"scale": scale})
            rows.append(scene.Strip(overlay["label"], frames, draw if own >= 0 else None, more))
            overlays.append({**overlay, "offset": sum(map(len, table))})
            table.append(weights.tobytes())
        regions = None
        if self._lgi is not None:  # first token (t, y, x) of each
            first = region_index(self.grid, self._lgi.config.region)[:, 0].numpy()
            regions = np.transpose(np.unravel_index(first, self.grid.shape)).tolist()
        return scene.View(
            title=f"Attention on {scene.plain(now.clip)}",
            rows=tuple(rows if now.overview else [scene.Strip("clip", frames), *rows]),
            sentences=self._sentences(now),
            footer=scene.footer_of(self.encoders),
            more={
                **scene.geometry((self._lgi or self).config, self.grid, self._lgi is not None),
                "overlays": overlays,
                "colours": scene.legend_colours(scene.COLOURS, 1),
                "regions": regions,
                "query": {"token": now.query} if rep < 0 else {"rep": rep},
                "click": "open" if now.overview else "query",
            },
            table=b"".join(table),
            columns=max(1, self._heads) if now.overview else None,
        )

    def _paint(
        self, maps: AttentionMaps, stage: str, rows: Tensor
    ) -> tuple[Tensor, UInt8[np.ndarray, "q n"]]:
        """The strongest weight of each query (q k), and all weights as bytes relative to it."""
        tokens, rep = rows[:, : maps.num_visible], rows[:, maps.num_visible :]
        if _looks_at_reps(maps, stage):  # their regions show the weight
            tokens = rep[:, torch.as_tensor(maps.places[:, 0])]
        whole = torch.zeros(len(rows), self.grid.n)
        whole[:, maps.index] = tokens
        tops = whole.amax(1).clamp_min(1e-12)
        return tops, (whole / tops[:, None] * 255).round().to(torch.uint8).numpy()

    def _overview(self, now: AttentionSettings) -> Pictures:
        """A picture for each layer (a line) and head (a column), relative to its strongest."""
        if now.stage in MEANS:
            raise ValueError(f"stage {now.stage} joins layers or heads; choose stage 1, 2 or 3")
        maps = next(iter(self._maps(now.clip).values()))
        stage = now.stage if maps.num_regions else "joint"
        rank = maps.rank(now.query)
        for layer in range(maps.config.depth):
            for head in range(self._heads) or (None,):
                row = maps.matrix(stage, layer, head)[[rank]].nan_to_num()
                tops, weights = self._paint(maps, stage, row)
                label = f"L{layer + 1} " + ("mean" if head is None else f"H{head + 1}")
                share = 1 / max(1, np.count_nonzero(weights))
                yield {"label": label, "fixed": 0, "tops": tops.tolist(), "share": share}, weights

    def _every_query(self, now: AttentionSettings) -> Pictures:
        """How player.js reads each model's weights, and the weights: a row of bytes per query."""
        for name, maps in self._maps(now.clip).items():
            layer = round(now.layer * (maps.config.depth - 1) / max(1, self._depth - 1))
            stage = now.stage if maps.num_regions or now.stage == "rollout" else "joint"
            matrix, attends = all_queries(maps, stage, layer, now.head)
            own, to_reps = matrix.diagonal().clone(), matrix[attends, maps.num_visible :].sum(1)
            share = float(1 / (matrix[attends] > 0).sum(1).float().mean())
            rest = [f"{float(r):.0%} to representative tokens" for r in to_reps]
            if _looks_at_reps(maps, stage) or not maps.num_regions:
                rest = []
            if stage == "rollout":  # half of every stage is residual and would outshine the rest
                kept = [f"{float(s):.0%} from itself (not drawn)" for s in own]
                rest = [", ".join(p) for p in zip(kept, rest, strict=True)] if rest else kept
                matrix = matrix - own.diag()
            tops, weights = self._paint(maps, stage, matrix[attends])
            row_of = torch.where(attends, attends.cumsum(0) - 1, -1)
            number = torch.empty(self.grid.n + maps.num_regions, dtype=torch.long)
            number[maps.index] = row_of[: maps.num_visible]
            number[self.grid.n :] = row_of[maps.num_visible :]
            words = [scene.plain(name), f"layer {layer + 1}", (JOINT | STAGES)[stage]]
            head = None if stage in MEANS else now.head
            words.append("mean of heads" if head is None else f"head {head + 1}")
            overlay = {
                "label": ", ".join(words[:1] + words[2:] if stage == "rollout" else words),
                "tokens": number[: self.grid.n].tolist(),
                "reps": number[self.grid.n :].tolist(),
                "tops": [float(f"{x:.4g}") for x in tops],
                "rest": rest or None,
                "share": share,
                "row": int(number[now.query]) if now.query < len(number) else -1,
            }
            yield overlay, weights

    def _sentences(self, now: AttentionSettings) -> tuple[str, ...]:
        if now.overview:
            name, encoder = next(iter(self.encoders.items()))
            stage = STAGES[now.stage] if encoder.num_regions else JOINT["joint"]
            return (f"{scene.plain(name)}, {stage}: every layer and head for one query, each "
                    "relative to its own strongest weight. A click opens one.",)  # fmt: skip
        said = "Brightness is relative to this query's strongest weight; hover to read values."
        if now.stage in ("inter", "interact"):
            said += " Keys are representative tokens here: each region shows the weight of its own."
        if now.stage == "inter":
            said += " Only representative tokens are queries at this stage."
        if now.stage in MEANS:
            said += " Heads are averaged, since heads of different stages do not correspond."
        asks = f"representative token of region {now.query - self.grid.n + 1}"
        if now.query < self.grid.n:
            t, y, x = np.unravel_index(now.query, self.grid.shape)
            asks = f"cube at time step {t + 1}, row {y + 1}, column {x + 1}"
        return f"First query: the {asks}.", said

    def _controls_of(self, now: AttentionSettings) -> list[dict[str, Any]]:
        layers = {str(i): f"{i + 1} of {self._depth}" for i in range(self._depth)}
        heads = {"mean": "mean"} | {str(i): str(i + 1) for i in range(self._heads)}
        no_layer, no_head = now.stage == "rollout", now.stage in MEANS
        head = "mean" if now.head is None or no_head else str(now.head)
        ways = {"": "back to one"} if now.overview else {"all": "all layers and heads"}
        return [
            pick_clip(now.clip, self.clips),
            control("select", "stage", "stage", now.stage, self._stages),
            control("select", "layer", "layer", str(now.layer), layers,
                    disabled=no_layer or now.overview),
            control("select", "head", "head", head, heads, disabled=no_head or now.overview),
            control("buttons", "overview", "", options=ways),
        ]  # fmt: skip


def _encoder(model: Any) -> Encoder:
    if not isinstance(model, Encoder | MaskedAutoencoder | Classifier):
        raise ValueError(
            f"a {type(model).__name__} has no encoder of ours; give a MaskedAutoencoder, a "
            "Classifier or an Encoder"
        )
    return speed_up(model if isinstance(model, Encoder) else model.encoder)


def _looks_at_reps(maps: AttentionMaps, stage: str) -> bool:
    is_third = stage == "interact" and not is_within_regions(stage, maps.config)
    return stage == "inter" or is_third
