"""A picture of one clip per class as the model will see it, and the report as a page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from maedfer_lab.config import finetune_recipe
from maedfer_lab.data.clips import Box, clip_indices, crop_and_resize
from maedfer_lab.data.doctor_clips import CLIP_FRAMES, CLIP_PX
from maedfer_lab.data.doctor_findings import in_words
from maedfer_lab.data.framing import face_square
from maedfer_lab.data.table import Annotations, Clip
from maedfer_lab.data.video_reader import VideoError

SHOWN = (0, 5, 10, 15)  # of the 16 frames of a clip
GAP, LABEL_PX, HEAD_PX = 8, 260, 84
INK, PALE = (20, 20, 20), (90, 90, 90)


def view_of(table: Annotations, clip: Clip) -> UInt8[np.ndarray, "n 160 160 3"]:
    """Some frames of the middle clip, framed as fine-tuning frames this data set.

    The six labelled sets are shipped or expected as crops of faces: the whole picture is stretched
    to a square. Elsewhere the square around the face is cut out.

    Raises:
        VideoError: the clip cannot be read.
    """
    reader = table.open(clip)
    recipe = finetune_recipe(table.dataset, len(table))
    frames = reader.read(clip_indices(len(reader), CLIP_FRAMES, recipe.stride)[list(SHOWN)])
    whole = Box(0, 0, reader.height, reader.width)
    box = whole if recipe.framing == "whole" else face_square(reader)
    return crop_and_resize(frames, box, CLIP_PX, CLIP_PX)


def contact_sheet(table: Annotations, clips: Sequence[Clip]) -> Image.Image:
    """One row per class: its name, its clips, and frames of the first of `clips` that can be read.

    A class of which none can be read gets a sentence instead of frames.
    """
    width = LABEL_PX + len(SHOWN) * (CLIP_PX + GAP) + GAP
    height = HEAD_PX + len(table.classes) * (CLIP_PX + GAP)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    large, small = (ImageFont.load_default(size) for size in (18, 13))
    recipe = finetune_recipe(table.dataset, len(table))
    framing = "whole picture" if recipe.framing == "whole" else "square around the face"
    draw.text((GAP, GAP), f"{table.dataset}: one clip per class", INK, large)
    heading = f"{framing}, {CLIP_PX} x {CLIP_PX} pixels, 16 frames at stride {recipe.stride}"
    draw.text((GAP, GAP + 26), heading, PALE, small)
    for i, shown in enumerate(SHOWN):
        place = LABEL_PX + i * (CLIP_PX + GAP), HEAD_PX - 22
        draw.text(place, f"frame {shown + 1} of {CLIP_FRAMES}", PALE, small)
    for label, (name, count) in enumerate(zip(table.classes, table.counts(), strict=True)):
        top = HEAD_PX + label * (CLIP_PX + GAP)
        draw.text((GAP, top + 40), _fitted(f"{label}  {name}", large, draw), INK, large)
        draw.text((GAP, top + 66), in_words(count, "clip"), PALE, small)
        chosen = _first_readable(table, [clip for clip in clips if clip.label == label])
        if chosen is None:
            draw.text((LABEL_PX, top + 66), "no clip that can be read", PALE, small)
            continue
        clip, frames = chosen
        draw.text((GAP, top + 86), _fitted(table.name(clip), small, draw), PALE, small)
        for i, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame), (LABEL_PX + i * (CLIP_PX + GAP), top))
    return sheet


def _first_readable(
    table: Annotations, clips: Sequence[Clip], tries: int = 5
) -> tuple[Clip, np.ndarray] | None:
    for clip in clips[:tries]:
        try:
            return clip, view_of(table, clip)
        except (VideoError, OSError):
            continue
    return None


def _fitted(
    text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, draw: ImageDraw.ImageDraw
) -> str:
    """The text, its front cut off where it is wider than the column."""
    cut = text
    while len(cut) > 1 and draw.textlength(cut, font) > LABEL_PX - 2 * GAP:
        cut = "…" + cut.lstrip("…")[1:]
    return cut


def png_bytes(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def page(title: str, sections: Sequence[tuple[str, str]], sheet: Image.Image) -> str:
    """One HTML file without links to others: sections of text, and the sheet."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [
        f"<h2>{html.escape(name)}</h2><pre>{html.escape(text)}</pre>" for name, text in sections
    ]
    data = base64.b64encode(png_bytes(sheet)).decode()
    alt = "frames of one clip of each class"
    parts.append(f'<h2>One clip per class</h2><img alt="{alt}" src="data:image/png;base64,{data}">')
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;"
        "color:#141414;background:#fff}pre{overflow-x:auto;font-size:14px;background:#f4f4f4;"
        "padding:1em}img{max-width:100%}"
    )
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{style}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'
