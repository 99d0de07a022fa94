"""A viewer's content at one moment, as plain arrays and words; its encoding as a sprite."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from maedfer_lab.config import ModelConfig, Shape3
from maedfer_lab.figures import colour_table, footer
from maedfer_lab.method.grid import check_clip

FPS = 10  # of clips whose own pace is not known
LONGEST_NAME = 80
LEFT_OUT = 245  # where a picture says nothing; what is hidden from the model is hatched
COLOURS = "cividis"  # of attention: even steps, for all eyes
STRENGTH = 0.7  # of an overlay, as player.js begins


@dataclass(frozen=True)
class Row:
    """One picture over time.

    pictures: uint8 (T, H, W, 3), as the browser gets them.
    with_overlay: makes them as they look with what the browser draws over them, for figures and
        videos.
    more: what the browser needs to know beside: `scale`, `note`, `hidden`, `overlay`.
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

    note: what should be said about the last settings (a ratio that was moved, say).
    sentences, numbers: the readout: sentences, and a table whose first row is its head.
    footer: what stands under all that leaves the viewer.
    fps: frames in a second, None where that is not known.
    columns: pictures in a line; None leaves that to the room there is.
    more: further entries of the scene, for player.js.
    table: numbers that the browser looks up.
    """

    viewer: str
    title: str
    rows: tuple[Row, ...]
    grid: Shape3
    tubelet: Shape3
    region: Shape3 | None
    sentences: tuple[str, ...] = ()
    numbers: tuple[tuple[str, ...], ...] = ()
    note: str = ""
    footer: str = ""
    fps: float | None = None
    columns: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    table: bytes = b""

    @property
    def num_frames(self) -> int:
        """Frames of every row."""
        return len(self.rows[0].pictures)

    @property
    def strips(self) -> list[UInt8[np.ndarray, "T H W 3"]]:
        """The pictures of all rows, each once."""
        return list({id(row.pictures): row.pictures for row in self.rows}.values())

    def scene(self, serial: int, mime: str) -> dict[str, Any]:
        """What player.js reads."""
        height, width = self.rows[0].pictures.shape[1:3]
        strips = [id(pictures) for pictures in self.strips]
        return {
            "viewer": self.viewer,
            "serial": serial,
            "mime": mime,
            "title": self.title,
            "frames": self.num_frames,
            "fps": self.fps or FPS,
            "timed": self.fps is not None,
            "tile": [width, height],
            "columns": self.columns,
            "strips": len(strips),
            "rows": [
                {"label": row.label, "strip": strips.index(id(row.pictures)), **row.more}
                for row in self.rows
            ],
            "footer": self.footer,
            "grid": list(self.grid),
            "tubelet": list(self.tubelet),
            "region": None if self.region is None else list(self.region),
            "readout": {
                "sentences": list(self.sentences),
                "table": [list(row) for row in self.numbers] or None,
            },
            **self.more,
        }


def encode_sprite(rows: Sequence[UInt8[np.ndarray, "T H W 3"]]) -> tuple[bytes, str]:
    """All rows as one picture, a row each, frames side by side; and its media type."""
    sheet = np.concatenate([np.concatenate(list(frames), axis=1) for frames in rows])
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "png", compress_level=1)
    return file.getvalue(), "image/png"


def as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1] as uint8."""
    return (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)


def frames_of(clip: Float[Tensor, "3 T H W"]) -> UInt8[np.ndarray, "T H W 3"]:
    """A clip's frames as the sprite takes them."""
    return as_bytes(clip.permute(1, 2, 3, 0).float().cpu().numpy())


def per_pixel(cubes: np.ndarray, tubelet: Shape3) -> np.ndarray:
    """Values of cubes (t, h, w, ...) at each of their pixels."""
    for axis, times in enumerate(tubelet):
        cubes = cubes.repeat(times, axis)
    return cubes


def hatched(
    pictures: UInt8[np.ndarray, "T H W 3"],
    hidden: Bool[np.ndarray, "t h w"],
    tubelet: Shape3,
) -> UInt8[np.ndarray, "T H W 3"]:
    """Pictures with hidden cubes hatched."""
    y, x = np.indices(pictures.shape[1:3])
    width = max(2, tubelet[1] // 4)
    stripes = np.where((x + y) // width % 2, 158, 98)[..., None].astype(np.uint8)
    return np.where(per_pixel(hidden, tubelet)[..., None], stripes, pictures)


def painted(
    frames: UInt8[np.ndarray, "T H W 3"],
    weights: UInt8[np.ndarray, " n"],
    grid: Shape3,
    tubelet: Shape3,
) -> UInt8[np.ndarray, "T H W 3"]:
    """Frames under the colours of one query's weights, as the browser draws them."""
    whole = per_pixel(colour_table(COLOURS)[weights.reshape(grid)], tubelet)
    return (STRENGTH * whole + (1 - STRENGTH) * frames).round().astype(np.uint8)


def plain(name: object) -> str:
    """A name as it may be shown anywhere: one line, no control characters, not too long."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(name)).split())
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


def as_sentence(error: Exception) -> str:
    """An error in words, for the widget; of a path only its last part, as it may be shown."""
    text = re.sub(r"(?<![\w/])~?(/[^\s/'\"]+)+/", "", str(error))
    text = " ".join(text.split()) or type(error).__name__
    return text[0].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def name_clips(
    clips: Tensor | Mapping[str, Tensor] | Sequence[Tensor],
) -> dict[str, Float[Tensor, "3 T H W"]]:
    """Clips by name: of one clip, of a batch or list of them, or of a mapping."""
    if isinstance(clips, Mapping):
        named = {str(name): clip for name, clip in clips.items()}
    elif isinstance(clips, Tensor) and clips.ndim == 4:
        named = {"clip": clips}
    else:
        named = {f"clip {i + 1}": clip for i, clip in enumerate(clips)}
    if not named:
        raise ValueError("clips is empty; give one clip (3, T, H, W) or {name: clip}")
    for name, clip in named.items():
        if not isinstance(clip, torch.Tensor):
            raise ValueError(
                f"clip {plain(name)!r} is a {type(clip).__name__}, not a tensor; "
                "use data.transforms.to_tensor(frames)"
            )
    return named


def check_fits(name: str, clip: Tensor, config: ModelConfig) -> None:
    """Raise, naming the clip, unless a model of `config` can read it."""
    try:
        check_clip(clip.unsqueeze(0), config)
    except ValueError as error:
        raise ValueError(f"clip {plain(name)!r}: {error}") from None


def footer_of(models: Mapping[str, torch.nn.Module]) -> str:
    """Who made it, with which models, and what it is not for."""
    return footer({plain(k): sum(p.numel() for p in m.parameters()) for k, m in models.items()})


def legend_colours(name: str) -> list[str]:
    """A few colours of a Matplotlib map for a legend, from low to high."""
    return ["#" + bytes(colour_table(name)[i].tolist()).hex() for i in range(0, 256, 51)]
