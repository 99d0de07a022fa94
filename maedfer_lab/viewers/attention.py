"""AttentionViewer: where any token of a clip looks, at any stage, layer and head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from maedfer_lab.attention.maps import (
    AttentionMaps,
    attention_bytes,
    capture_attention,
    is_within_regions,
)
from maedfer_lab.attention.tracing import JOINT, STAGES, all_queries, stages_to_ask
from maedfer_lab.fast import speed_up
from maedfer_lab.figures import colour_table
from maedfer_lab.method.models import Classifier, Encoder, MaskedAutoencoder
from maedfer_lab.viewers.player import Player, buttons, number_below, pick, select
from maedfer_lab.viewers.scene import (
    COLOURS,
    Row,
    View,
    check_fits,
    footer_of,
    frames_of,
    legend_colours,
    name_clips,
    painted,
    plain,
)

Model = MaskedAutoencoder | Classifier | Encoder
MAX_BYTES = 2**28


@dataclass(frozen=True)
class AttentionSettings:
    """What is looked at.

    layer: counted from 0, of the model with most layers; others show their nearest in proportion.
    head: number, or None for the mean over heads.
    query: (t, y, x) of a cube, or the number of a representative token; where figures and a fresh
        page begin.
    overview: all layers and heads of the first model, for that query.
    """

    clip: str
    stage: str
    layer: int
    head: int | None = None
    query: tuple[int, int, int] | int = (0, 0, 0)
    overview: bool = False


class AttentionViewer(Player[AttentionSettings]):
    """Attention of one query over the clip, beside the plain clip; several models side by side.

    models: a model (autoencoder, classifier or encoder; LGI-Former or ViT), or {name: model} with
        equal token grids.
    clips: one clip (3, T, H, W) with pixels in [0, 1], a batch or list of them, or {name: clip}.
    stage: local, inter, interact, composed or rollout (`attention.tracing`); a ViT shows its
        joint attention for the first four.
    layer: from 0, by default the last. head: from 0, or None for the mean.
    query: (t, y, x) of a cube, or the number of a representative token; by default the
        middle of the first frame.
    fps: frames of the clips in a second, where that is known.

    "All layers and heads" shows one query's attention in each of them; a click opens one.

    The weights of every query lie in the browser, so that a click asks no kernel. Attention is
    captured by the model's own code, once per clip, as float16; `nbytes` says how much that is.
    """

    def __init__(
        self,
        models: Model | Mapping[str, Model],
        clips: Tensor | Mapping[str, Tensor] | Sequence[Tensor],
        *,
        stage: str | None = None,
        layer: int | None = None,
        head: int | None = None,
        query: tuple[int, int, int] | int | None = None,
        fps: float | None = None,
    ) -> None:
        named = dict(models) if isinstance(models, Mapping) else {"model": models}
        if not named:
            raise ValueError("models is empty; give one model or {name: model}")
        self.encoders = {str(name): _encoder(model) for name, model in named.items()}
        first = next(iter(self.encoders.values()))
        self.clips = name_clips(clips)
        for name, encoder in self.encoders.items():
            same = encoder.grid == first.grid and encoder.config.tubelet == first.config.tubelet
            if not same:
                raise ValueError(
                    f"model {plain(name)!r} has the token grid {encoder.grid.shape}, the first one "
                    f"{first.grid.shape}; models side by side need equal grids and cubes"
                )
            for clip_name, clip in self.clips.items():
                check_fits(clip_name, clip, encoder.config)
        self.grid, self.config = first.grid, first.config
        self._lgi = next((e for e in self.encoders.values() if e.num_regions), None)
        self._stages = JOINT if self._lgi is None else stages_to_ask(self._lgi)
        self._depth = max(e.config.depth for e in self.encoders.values())
        only_mean = any(_kept_heads(e) == "mean" for e in self.encoders.values())
        self._heads = 0 if only_mean else min(e.config.num_heads for e in self.encoders.values())
        self._captured: tuple[str, dict[str, AttentionMaps]] = ("", {})
        middle = 0, self.grid.h // 2, self.grid.w // 2  # seen at once, in the first frame
        now = AttentionSettings(
            clip=next(iter(self.clips)),
            stage=pick("stage", stage or next(iter(self._stages)), self._stages),
            layer=number_below("layer", self._depth - 1 if layer is None else layer, self._depth),
            head=None if head is None else number_below("head", head, self._heads),
            query=self._check_query(middle if query is None else query),
        )
        super().__init__(now, fps)

    @property
    def nbytes(self) -> int:
        """Size of the weights that are kept for one clip, known before any is computed."""
        return sum(
            attention_bytes(e.config, None, _kept_heads(e), e.grid.n)
            for e in self.encoders.values()
        )

    def _check_query(self, query: Any) -> tuple[int, int, int] | int:
        if isinstance(query, int) and not isinstance(query, bool):
            regions = self._lgi.num_regions if self._lgi is not None else 0
            if not regions:
                raise ValueError(
                    f"query={query}: a ViT has no representative tokens; use (0, 0, 0)"
                )
            return number_below("query", query, regions)
        place = tuple(query) if isinstance(query, Sequence) else ()
        sides = self.grid.shape
        if len(place) != 3 or not all(0 <= i < n for i, n in zip(place, sides, strict=True)):
            raise ValueError(
                f"query={query} must be (t, y, x) inside the grid {self.grid.shape}, or the number "
                "of a representative token; try (0, 0, 0)"
            )
        return int(place[0]), int(place[1]), int(place[2])

    def _changed(self, now: AttentionSettings, name: str, value: Any) -> AttentionSettings:
        if name == "layer":
            return replace(now, layer=number_below("layer", value, self._depth))
        if name == "head":
            is_mean = value in (None, "mean")
            return replace(now, head=None if is_mean else number_below("head", value, self._heads))
        if name == "stage":
            return replace(now, stage=pick("stage", value, self._stages))
        if name == "query":
            return replace(now, query=self._check_query(value))
        if name == "overview":  # of the query that the browser shows
            asked = value["query"]
            query = asked["rep"] if "rep" in asked else self._place(asked["token"])
            return replace(now, overview=bool(value["value"]), query=self._check_query(query))
        if name == "open":
            layer, head = divmod(number_below(name, value, self._num_maps()), max(1, self._heads))
            return replace(now, layer=layer, head=head if self._heads else None, overview=False)
        pick("name", name, ("clip", "stage", "layer", "head", "query", "overview", "open"))
        return replace(now, clip=pick("clip", value, self.clips))

    def _maps(self, clip: str) -> dict[str, AttentionMaps]:
        """The attention of every model on a clip; that of the last clip is kept."""
        if self._captured[0] != clip:
            found = {
                name: capture_attention(encoder, self.clips[clip], heads=_kept_heads(encoder))
                for name, encoder in self.encoders.items()
            }
            self._captured = clip, found
        return self._captured[1]

    def _num_maps(self) -> int:
        return next(iter(self.encoders.values())).config.depth * max(1, self._heads)

    def _place(self, token: Any) -> tuple[int, ...]:
        return tuple(map(int, np.unravel_index(int(token), self.grid.shape)))

    def _overview(self, now: AttentionSettings) -> View:
        """A picture for each layer (a line) and head (a column), relative to its strongest."""
        if now.stage in ("composed", "rollout"):
            raise ValueError(f"stage {now.stage} joins layers or heads; choose stage 1, 2 or 3")
        name, maps = next(iter(self._maps(now.clip).items()))
        frames, heads = frames_of(self.clips[now.clip]), range(self._heads) or (None,)
        rows, overlays, table = [], [], []
        stage = now.stage if maps.num_regions else "joint"
        query = now.query
        number = maps.rep_token(query) if isinstance(query, int) else self._token(query)
        for layer in range(maps.config.depth):
            for head in heads:
                found = maps.over_tokens(stage, layer, head, number)
                own = np.nan_to_num(found.tokens)
                if not own.any():  # keys are representative tokens
                    own = np.nan_to_num(maps.paint_regions(found.rep))
                own = own.ravel()
                top = float(own.max()) or 1e-12
                own = (own / top * 255).round().astype(np.uint8)
                label = f"L{layer + 1} " + ("mean" if head is None else f"H{head + 1}")
                draw = partial(painted, frames, own, self.grid.shape, self.config.tubelet)
                rows.append(Row(label, frames, draw, {"overlay": len(overlays)}))
                overlays.append({"label": label, "fixed": 0, "offset": sum(map(len, table)),
                                 "tops": [top], "share": 1 / max(1, np.count_nonzero(own)),
                                 "rest": None})  # fmt: skip
                table.append(own.tobytes())
        return self._view(
            now, rows, overlays, table, columns=len(heads), click="open",
            sentences=(f"{plain(name)}, {STAGES.get(stage, JOINT.get(stage))}: every layer and head"
                       " for one query, each relative to its own strongest weight. A click opens"
                       " one.",),
        )  # fmt: skip

    def _look(self, now: AttentionSettings) -> View:
        if now.overview:
            return self._overview(now)
        plain_frames = frames_of(self.clips[now.clip])
        rows, overlays, table = [Row("clip", plain_frames)], [], []
        scale = {"low": "0", "high": "most", "colours": legend_colours(COLOURS)}
        sides = self.grid.shape, self.config.tubelet
        for name, maps in self._maps(now.clip).items():
            overlay, weights = self._overlay(plain(name), maps, now)
            overlay["offset"] = sum(map(len, table))
            own = weights[overlay["row"]] if overlay["row"] >= 0 else None
            rows.append(
                Row(
                    overlay["label"],
                    plain_frames,
                    None if own is None else partial(painted, plain_frames, own, *sides),
                    {"overlay": len(overlays), "scale": scale},
                )
            )
            overlays.append(overlay)
            table.append(weights.tobytes())
        return self._view(now, rows, overlays, table, self._sentences(now))

    def _view(
        self,
        now: AttentionSettings,
        rows: list[Row],
        overlays: list[dict[str, Any]],
        table: list[bytes],
        sentences: tuple[str, ...],
        columns: int | None = None,
        click: str = "query",
    ) -> View:
        query = now.query
        asked = {"rep": query} if isinstance(query, int) else {"token": self._token(query)}
        colours = ["#" + bytes(c.tolist()).hex() for c in colour_table(COLOURS)]
        return View(
            viewer="attention",
            title=f"Attention on {plain(now.clip)}",
            rows=tuple(rows),
            grid=self.grid.shape,
            tubelet=self.config.tubelet,
            region=None if self._lgi is None else self._lgi.config.region,
            sentences=sentences,
            footer=footer_of(self.encoders),
            columns=columns,
            more={"overlays": overlays, "colours": colours, "regions": self._regions(),
                  "query": asked, "click": click},
            table=b"".join(table),
        )  # fmt: skip

    def _overlay(
        self, name: str, maps: AttentionMaps, now: AttentionSettings
    ) -> tuple[dict[str, Any], UInt8[np.ndarray, "q n"]]:
        """How player.js reads one model's weights, and the weights: a row of bytes per query."""
        layer = round(now.layer * (maps.config.depth - 1) / max(1, self._depth - 1))
        stage = now.stage
        if not maps.num_regions and stage != "rollout":
            stage = "joint"
        matrix, attends = all_queries(maps, stage, layer, now.head)
        visible, n = maps.num_visible, self.grid.n
        tokens, rep = matrix[:, :visible], matrix[:, visible:]
        is_painted = stage == "inter" or (
            stage == "interact" and not is_within_regions(stage, maps.config)
        )
        if is_painted:  # keys are representative tokens: their regions show the weight
            tokens = rep[:, torch.as_tensor(maps.places[:, 0])]
            rest, share = None, 1 / maps.num_regions
        else:
            rest = [f"{float(r):.0%} to representative tokens" for r in rep.sum(1)[attends]]
            rest = rest if maps.num_regions else None
            reached = (matrix[attends] > 0).sum(1).float().mean()
            share = float(1 / reached)
        grid_order = torch.zeros(len(matrix), n)
        grid_order[:, maps.index] = tokens
        if stage == "rollout":  # half of every stage stays where it was and would outshine the rest
            own = matrix.diagonal()
            grid_order[torch.arange(visible), maps.index] = 0.0
            kept = [f"{float(s):.0%} from itself (not drawn)" for s in own]
            rest = kept if rest is None else [", ".join(p) for p in zip(kept, rest, strict=True)]
        shown = grid_order[attends]
        tops = shown.amax(1).clamp_min(1e-12)
        weights = (shown / tops[:, None] * 255).round().to(torch.uint8).numpy()
        row_of = torch.full((len(matrix),), -1, dtype=torch.long)
        row_of[attends] = torch.arange(len(shown))
        by_token = torch.full((n,), -1, dtype=torch.long)
        by_token[maps.index] = row_of[:visible]
        by_rep = row_of[visible:]
        query = now.query
        if isinstance(query, int):
            row = int(by_rep[query]) if query < len(by_rep) else -1
        else:
            row = int(by_token[self._token(query)])
        has_heads = now.head is not None and stage not in ("composed", "rollout")
        which = f"head {now.head + 1}" if has_heads and now.head is not None else "mean of heads"
        words = JOINT[stage] if stage == "joint" else STAGES[stage]
        label = f"{name}, {words}" if stage == "rollout" else f"{name}, layer {layer + 1}, {words}"
        return {
            "label": f"{label}, {which}",
            "tokens": by_token.tolist(),
            "reps": by_rep.tolist(),
            "tops": [float(f"{x:.4g}") for x in tops],
            "rest": rest,
            "share": share,
            "row": row,
        }, weights

    def _token(self, place: tuple[int, int, int]) -> int:
        return int(np.ravel_multi_index(place, self.grid.shape))

    def _regions(self) -> list[list[int]] | None:
        """First token (t, y, x) of each region, in order."""
        if self._lgi is None:
            return None
        sizes = self._lgi.config.region
        steps = [range(0, n, size) for n, size in zip(self.grid.shape, sizes, strict=True)]
        return [[t, y, x] for t in steps[0] for y in steps[1] for x in steps[2]]

    def _sentences(self, now: AttentionSettings) -> tuple[str, ...]:
        said = "Brightness is relative to the strongest weight of this query; the pointer tells it."
        if now.stage in ("inter", "interact"):
            said += " Keys are representative tokens here: each region shows its own one's weight."
        if now.stage == "inter":
            said += " Only representative tokens ask at this stage."
        if now.stage in ("composed", "rollout"):
            said += " Heads are averaged, since those of different stages have nothing in common."
        query = now.query
        asks = (
            f"representative token of region {query + 1}"
            if isinstance(query, int)
            else f"cube at time step {query[0] + 1}, row {query[1] + 1}, column {query[2] + 1}"
        )
        return (
            f"First query: the {asks}.",
            said,
            f"Captured weights of this clip: {self.nbytes / 2**20:.1f} MiB (float16).",
        )

    def _controls_of(self, now: AttentionSettings) -> list[dict[str, Any]]:
        layers = {str(i): f"{i + 1} of {self._depth}" for i in range(self._depth)}
        heads = {"mean": "mean"} | {str(i): str(i + 1) for i in range(self._heads)}
        no_layer, no_head = now.stage == "rollout", now.stage in ("composed", "rollout")
        return [
            select("clip", "clip", now.clip, {name: plain(name) for name in self.clips}),
            select("stage", "stage", now.stage, self._stages),
            select("layer", "layer", str(now.layer), layers,
                   disabled=no_layer or now.overview),
            select("head", "head", "mean" if now.head is None or no_head else str(now.head),
                   heads, disabled=no_head or now.overview),
            buttons("overview", "", {"": "back to one"} if now.overview
                    else {"all": "all layers and heads"}),
        ]  # fmt: skip


def _encoder(model: Any) -> Encoder:
    if isinstance(model, Encoder):
        return speed_up(model)
    if isinstance(model, MaskedAutoencoder | Classifier):
        return speed_up(model.encoder)
    raise ValueError(
        f"a {type(model).__name__} has no encoder of ours; give a MaskedAutoencoder, a Classifier "
        "or an Encoder"
    )


def _kept_heads(encoder: Encoder) -> Any:
    """All heads, or their mean alone where all would be too much to keep."""
    size = attention_bytes(encoder.config, None, None, encoder.grid.n)
    return None if size <= MAX_BYTES else "mean"
