"""What a viewer leaves behind: a page that plays by itself, a picture, a GIF, a video."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from maedfer_lab.data.writing import encode_video
from maedfer_lab.files import png_bytes
from maedfer_lab.method.reconstruction import MOTION_GAIN, ClipReconstruction, as_bytes
from maedfer_lab.viewers.scene import FPS, View

TILE_PX = 200  # a picture is enlarged by whole numbers to about this
GAP_PX, LABEL_PX, MARGIN_PX = 12, 20, 12
COLUMNS = 4
SWEEP_PX = 240  # of each picture of the sweep
KINDS = ("html", "png", "gif", "mp4")
STATIC = Path(__file__).parent / "static"


def page(title: str, values: Mapping[str, Any], code: str, style: str) -> str:
    """A whole page around player.js: all it needs is inside, and it may fetch nothing."""
    packed = {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v
              for k, v in values.items()}  # fmt: skip
    content = json.dumps(packed, allow_nan=False)
    for letter in "<>&\u2028\u2029":  # nothing in a name may end the script or start another
        content = content.replace(letter, f"\\u{ord(letter):04x}")
    values = {"title": html.escape(title), "content": content, "code": code, "style": style}
    return fill(STATIC / "player.html", values)


def fill(template: Path, values: Mapping[str, str]) -> str:
    """The text of a file with `values` in place of their {{names}}."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template.read_text("utf-8"))


def encode(view: View, kind: str, frame: int = 0) -> bytes:
    """All pictures as a "png" of one frame, or a "gif" or "mp4" of all at the viewer's pace."""
    fps = view.fps or FPS
    if kind == "png":
        return png_bytes(compose(view, frame), compress_level=6)
    frames = [compose(view, i) for i in range(view.num_frames)]
    if kind == "gif":
        return _gif([Image.fromarray(sheet) for sheet in frames], round(1000 / fps))
    repeats = max(1, math.ceil(2 * fps / len(frames)))  # long enough to be seen: two seconds
    return encode_video(np.stack(frames * repeats), fps)


def _gif(sheets: Sequence[Image.Image], pause_ms: int) -> bytes:
    file = io.BytesIO()
    more = {"append_images": sheets[1:], "duration": pause_ms, "loop": 0}
    sheets[0].save(file, "gif", save_all=True, **more)
    return file.getvalue()


def sweep(results: Sequence[ClipReconstruction], shares: Sequence[float], footer: str) -> bytes:
    """A GIF of given, guess and truth above their motion, while more and more is hidden.

    results: of one clip, with the rising `shares` of hidden cubes; four frames are shown of each.
    """
    side, gain, sheets = SWEEP_PX, 2 * MOTION_GAIN, []
    large, small = ImageFont.load_default(15), ImageFont.load_default(12)
    for step in range(4 * len(results)):
        result, share = results[step // 4], shares[step // 4]
        frame = 2 * step % len(result.original)
        sheet = Image.new("RGB", (3 * (side + GAP_PX) + GAP_PX, 2 * side + 4 * LABEL_PX), "white")
        draw = ImageDraw.Draw(sheet)
        guessed, true = (0.5 + gain / 2 * motion[frame // 2]
                         for motion in (result.predicted_motion, result.motion))  # fmt: skip
        columns = {
            f"given: {share:.0%} hidden": [result.masked[frame]],
            "guess": [result.reconstruction[frame], guessed],
            "truth": [result.original[frame], true],
        }
        for column, (label, pictures) in enumerate(columns.items()):
            left = GAP_PX + column * (side + GAP_PX)
            draw.text((left, 4), label, "black", large)
            for row, picture in enumerate(pictures):
                tile = Image.fromarray(as_bytes(picture))
                tile = tile.resize((side, side), Image.Resampling.NEAREST)
                sheet.paste(tile, (left, 26 + row * (side + 6)))
        words = f"motion: odd minus\neven frame, {gain:g} times"
        draw.text((GAP_PX, 1.5 * side), words, "black", large)
        draw.text((GAP_PX, sheet.height - LABEL_PX), footer, "black", small)
        sheets.append(sheet.quantize(128, dither=Image.Dither.NONE))
    return _gif(sheets, 160)


def compose(view: View, frame: int) -> UInt8[np.ndarray, "H W 3"]:
    """All pictures of one frame on white, labelled; sides are even, as videos need them."""
    height, width = view.rows[0].pictures.shape[1:3]
    times = max(1, round(TILE_PX / max(height, width) / (2 if view.columns else 1)))
    height, width = height * times, width * times
    columns = view.columns or min(COLUMNS, len(view.rows))
    down = -(-len(view.rows) // columns)
    size = (
        2 * MARGIN_PX + columns * (width + GAP_PX) - GAP_PX,
        2 * MARGIN_PX + 2 * LABEL_PX + down * (height + LABEL_PX + GAP_PX),
    )
    sheet = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)

    def text(x: int, y: int, words: str, room: int) -> None:
        while draw.textlength(words, font) > room and len(words) > 1:
            words = words.rstrip("…")[:-1] + "…"
        draw.text((x, y), words, "black", font)

    text(MARGIN_PX, 6, f"{view.title}, frame {frame + 1} of {view.num_frames}",
         size[0] - 2 * MARGIN_PX)  # fmt: skip
    for i, row in enumerate(view.rows):
        x = MARGIN_PX + i % columns * (width + GAP_PX)
        y = MARGIN_PX + LABEL_PX + i // columns * (height + LABEL_PX + GAP_PX)
        text(x, y, row.label, width)
        tile = Image.fromarray(row.drawn[frame]).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(tile, (x, y + LABEL_PX))
    text(MARGIN_PX, sheet.height - LABEL_PX - 6, view.footer, size[0] - 2 * MARGIN_PX)
    return np.asarray(sheet)
