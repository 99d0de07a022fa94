"""A viewer's content at one moment, as plain arrays and text; its encoding as a sprite."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from maedfer_lab.config import ModelConfig, Shape3
from maedfer_lab.figures import colour_table, footer
from maedfer_lab.files import png_bytes
from maedfer_lab.method.grid import Grid, check_clip
from maedfer_lab.method.reconstruction import as_bytes

FPS = 10  # of clips with unknown frame rate
LONGEST_NAME = 80
LEFT_OUT = 245  # grey of a picture's empty parts; cubes hidden from the model are hatched
COLOURS = "cividis"  # of attention: perceptually uniform, safe for colour-blind readers
STRENGTH = 0.7  # of an overlay, the initial value in player.js
HATCHED = {"note": "hatched: hidden"}
Clips = Tensor | Mapping[str, Tensor] | Sequence[Tensor]


@dataclass(frozen=True)
class Strip:
    """One picture over time.

    pictures: uint8 (T, H, W, 3), as sent to the browser.
    with_overlay: renders them with what the browser draws over them, for files.
    more: further data for the browser: `scale`, `note`, `hidden`, `overlay`.
    """

    label: str
    pictures: UInt8[np.ndarray, "T H W 3"]
    with_overlay: Callable[[], UInt8[np.ndarray, "T H W 3"]] | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def drawn(self) -> UInt8[np.ndarray, "T H W 3"]:
        """The pictures as they are seen."""
        return self.pictures if self.with_overlay is None else self.with_overlay()


@dataclass(frozen=True)
class View:
    """All that a viewer shows at one moment.

    sentences, numbers: the readout: sentences, and a table whose first row is its header.
    footer: the line under everything that is saved.
    more: further entries of the scene, for player.js. table: numbers that it looks up.
    note: a remark on the last settings (a ratio that was rounded, say).
    columns: pictures in a line, None for as many as fit. fps: None if unknown.
    """

    title: str
    rows: tuple[Strip, ...]
    sentences: tuple[str, ...]
    footer: str
    more: Mapping[str, Any]
    numbers: tuple[tuple[str, ...], ...] = ()
    table: bytes = b""
    note: str = ""
    columns: int | None = None
    fps: float | None = None

    @property
    def num_frames(self) -> int:
        """Frames of every row."""
        return len(self.rows[0].pictures)

    @cached_property
    def _strips(self) -> dict[int, UInt8[np.ndarray, "T H W 3"]]:
        """The pictures of all rows, each once."""
        return {id(row.pictures): row.pictures for row in self.rows}

    def sprite(self) -> bytes:
        """All pictures in one PNG, a line each, frames side by side."""
        sheet = np.concatenate([np.concatenate([*s], axis=1) for s in self._strips.values()])
        return png_bytes(sheet, compress_level=1)

    def scene(self) -> dict[str, Any]:
        """What player.js reads."""
        height, width = self.rows[0].pictures.shape[1:3]
        strips = [*self._strips]
        return {
            "mime": "image/png",
            "title": self.title,
            "frames": self.num_frames,
            "fps": self.fps or FPS,
            "timed": self.fps is not None,
            "tile": [width, height],
            "columns": self.columns,
            "strips": len(strips),
            "rows": [{"label": row.label, "strip": strips.index(id(row.pictures)), **row.more}
                     for row in self.rows],
            "footer": self.footer,
            "readout": {"sentences": [*self.sentences],
                        "table": [[*row] for row in self.numbers] or None},
            **self.more,
        }  # fmt: skip


def geometry(config: ModelConfig, grid: Grid, with_regions: bool = True) -> dict[str, Any]:
    """Token geometry for player.js."""
    region = list(config.region) if with_regions else None
    return {"grid": list(grid.shape), "tubelet": list(config.tubelet), "region": region}


def digits(mask: Bool[Tensor, " k"]) -> str:
    """A mask as player.js reads it: 1 is hidden."""
    return "".join("01"[int(hidden)] for hidden in mask)


def frames_of(clip: Float[Tensor, "3 T H W"]) -> UInt8[np.ndarray, "T H W 3"]:
    """A clip's frames as the sprite takes them."""
    return as_bytes(clip.permute(1, 2, 3, 0).float().cpu().numpy())


def per_pixel(cubes: np.ndarray, tubelet: Shape3) -> np.ndarray:
    """Values of cubes (t, h, w, ...) at each of their pixels."""
    for axis, times in enumerate(tubelet):
        cubes = cubes.repeat(times, axis)
    return cubes


def hatched(
    pictures: UInt8[np.ndarray, "T H W 3"], hidden: Bool[np.ndarray, "t h w"], tubelet: Shape3
) -> UInt8[np.ndarray, "T H W 3"]:
    """Pictures with hidden cubes hatched."""
    y, x = np.indices(pictures.shape[1:3])
    width = max(2, tubelet[1] // 4)
    stripes = np.where((x + y) // width % 2, 158, 98)[..., None].astype(np.uint8)
    return np.where(per_pixel(hidden, tubelet)[..., None], stripes, pictures)


def painted(
    frames: UInt8[np.ndarray, "T H W 3"], weights: UInt8[np.ndarray, "t h w"], tubelet: Shape3
) -> UInt8[np.ndarray, "T H W 3"]:
    """Frames under the colours of one query's weights, as the browser draws them."""
    whole = per_pixel(colour_table(COLOURS)[weights], tubelet)
    return (STRENGTH * whole + (1 - STRENGTH) * frames).round().astype(np.uint8)


def plain(name: object) -> str:
    """A name that is safe to show anywhere: one line, no control characters, not too long."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(name)).split())
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


def as_sentence(error: Exception) -> str:
    """An error as text, for the widget; of a path only its last part."""
    text = str(error)
    for folder in (tempfile.gettempdir(), Path(__file__).parents[2], Path.home()):  # with spaces
        text = re.sub(re.escape(f"{folder}/") + r"([^:'\"]*/)?", "", text)
    text = re.sub(r"(?<![\w/])~?(/[^\s/'\"]+)+/", "", text)
    text = " ".join(text.split()) or type(error).__name__
    return text[0].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def name_clips(clips: Clips, *configs: ModelConfig) -> dict[str, Float[Tensor, "3 T H W"]]:
    """Clips by name: of one clip, of a batch or list of them, or of a mapping.

    ValueError for none, and, by name, for one that models of `configs` cannot read.
    """
    if isinstance(clips, Mapping):
        named = {str(name): clip for name, clip in clips.items()}
    elif isinstance(clips, Tensor) and clips.ndim == 4:
        named = {"clip": clips}
    else:
        named = {f"clip {i + 1}": clip for i, clip in enumerate(clips)}
    if not named:
        raise ValueError("clips is empty; give one clip (3, T, H, W) or {name: clip}")
    for name, clip in named.items():
        for config in configs:
            check_fits(name, clip, config)
    return named


def check_fits(name: str, clip: Any, config: ModelConfig) -> None:
    """Raise, naming the clip, unless a model of `config` can read it."""
    try:
        check_clip(clip.unsqueeze(0) if isinstance(clip, Tensor) else clip, config)
    except ValueError as error:
        raise ValueError(f"clip {plain(name)!r}: {error}") from None


def footer_of(models: Mapping[str, torch.nn.Module]) -> str:
    """The package, the models, and their limits of use."""
    return footer({plain(k): sum(p.numel() for p in m.parameters()) for k, m in models.items()})


def legend_colours(name: str, every: int = 51) -> list[str]:
    """Colours of a Matplotlib map for a browser, from low to high."""
    return ["#" + bytes(colour.tolist()).hex() for colour in colour_table(name)[::every]]
