"""Your own face: its reconstruction, and its expressions over time."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image, ImageDraw

from maedfer_lab.figures.style import GREY, PALETTE, drawing, picture_rows
from maedfer_lab.files import unpack_picture

MARKS = "osD^v<>PXhp"
NAMED = 4  # classes drawn in colour; the others are grey


@drawing("11_your_own_face")
def draw_own_face(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 11: one person, found, masked and reconstructed."""
    figure.set_size_inches(1.8 + 1.6 * len(data["columns"]), 10.4)
    picture_rows(figure, data["rows"], data["columns"])
    losses = data["losses"]
    said = "; ".join(
        f"{kind} loss: model {losses['model'][kind]:.3f}, interpolation "
        f"{losses['interpolation'][kind]:.3f}, mean colour {losses['mean'][kind]:.3f}"
        for kind in ("appearance", "motion")
    )
    return (
        f"A held-out drawn person. {data['model']}. {said}. Motion: odd minus even "
        "frame, orange brighter, violet darker, up to the strongest 0.2 % of the pixels. One "
        "person and one mask: no measure of the model."
    )


@drawing("11_framings", 9.5, 3.4)
def draw_framings(figure: Figure, data: dict[str, Any]) -> str:
    """Notebook 11: the squares of different data sets around a face."""
    picture_rows(figure, data["rows"], data["columns"])
    return (
        "Squares around one drawn face and the crops they give. wide: 1.7 times the face's box, "
        "what our small model was trained on. voxceleb2: 1.4 times, more of it below, like the "
        "data set's own crops. official: rows 0 to 160 and columns 32 to 192 of such a crop of 224 "
        "pixels, which MAE-DFER pre-trains on; that is the box itself."
    )


@drawing("", 10, 4.6, quoted=True)
def draw_timeline(figure: Figure, data: dict[str, Any]) -> str:
    """A `Prediction.timeline`: probabilities of the classes over time, below the face's crops."""
    seconds, values = np.array(data["seconds"]), np.array(data["probabilities"])
    faces, axis = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.6))
    start = _time(axis, seconds)
    _crops(faces, data["crops"])
    strongest = np.argsort(-values.max(0))
    named = set(strongest[:NAMED].tolist())
    for k in strongest[::-1]:  # a class has the same colour and mark in every video
        look: dict[str, Any] = {"color": GREY, "lw": 0.8, "alpha": 0.6}
        if k in named:
            look = {"color": PALETTE[k % len(PALETTE)], "marker": MARKS[k % len(MARKS)],
                    "label": data["classes"][k], "zorder": 3}  # fmt: skip
        for own in _pieces(data):
            axis.plot(seconds[own], values[own, k], ms=4, **look)
            look.pop("label", None)
    if data.get("sure"):
        axis.axhspan(0, data["sure"], color=GREY, alpha=0.15, lw=0, zorder=0)
        axis.text(start, data["sure"], " uncertain below", va="bottom", fontsize=8)
    axis.set(ylim=(0, 1), xlabel="seconds (middle of each window)", ylabel=data["scale"])
    handles, names = axis.get_legend_handles_labels()
    axis.legend(handles[::-1], names[::-1], loc="upper left", bbox_to_anchor=(1.0, 1.0))
    others = len(data["classes"]) - len(named)
    grey = f" The other {others} classes are grey." if others > 0 else ""
    return f"{_short(data['title'])}. {data['model']}{grey} {data['footer']}.".replace("\n", "; ")


@drawing("", 10, 7.6, quoted=True)
def draw_movement(figure: Figure, data: dict[str, Any]) -> str:
    """A `Movement.timeline`: the movement of each part of the face over time, below its crops."""
    seconds = np.array(data["seconds"])
    faces, parts, tokens, head = figure.subplots(
        4, 1, sharex=True, height_ratios=(1.3, 2.4, 1.4, 1)
    )
    _time(parts, seconds)
    colours = dict(zip(data["values"], PALETTE, strict=False))
    _crops(faces, data["crops"], 96, colours)
    for name, value in data["values"].items():
        axis, look = head if name == "head" else parts, {"color": colours[name]}
        for own in _pieces(data):
            line = np.where(own, value, np.nan)
            axis.plot(seconds, line, lw=0.9, **look)
            line = np.where(data["moving"][name], line, np.nan)
            axis.plot(seconds, line, ".-", lw=2.4, ms=4, **look)
        axis.plot([], [], lw=2.4, label=name, **look)
    for name, value in data["tokens"].items():
        for own in _pieces(data):
            line = np.where(own, value, np.nan)
            tokens.plot(seconds, line, lw=0.9, color=colours[name])
    units = {parts: "grey levels", tokens: "tokens:\ncosine distance", head: "box sides / s"}
    for axis, unit in units.items():
        axis.set_ylim(bottom=0)
        axis.set_ylabel(unit)
    for axis in (parts, head):
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    head.set_xlabel("seconds")
    text = f"{_short(data['title'])}. Thick: intervals of movement. {data['about']}"
    return f"{text} {data['footer']}."


def _time(axis: Axes, seconds: np.ndarray) -> float:
    """Leave room at both ends; returns where the axis begins."""
    low, high = float(seconds.min()), float(seconds.max())
    spare = 0.05 * (high - low) or 0.5
    axis.set_xlim(low - spare, high + spare)
    return low - spare


def _pieces(data: dict[str, Any]) -> list[np.ndarray]:
    pieces = np.array(data["pieces"])
    return [pieces == piece for piece in np.unique(pieces)]


def _crops(axis: Axes, crops: list[dict[str, Any]], height: int = 58, colours: Any = None) -> None:
    """Crops above their seconds, with their regions (left, top, right, bottom as shares)."""
    for crop in crops:
        side = 4 * height
        shown = Image.fromarray(unpack_picture(crop["picture"])).resize((side, side))
        for name, share in crop.get("regions", {}).items():
            box = [side * x for x in share]
            ImageDraw.Draw(shown).rectangle(box, outline=colours[name], width=6)
        image = OffsetImage(np.asarray(shown), zoom=height / side)
        axis.add_artist(AnnotationBbox(image, (crop["second"], 0.5), frameon=False, pad=0))
    axis.set_ylim(0, 1)
    axis.axis("off")


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
