"""What all figures share: colours, sizes, captions, rows of pictures, saving."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase, SubFigure
from matplotlib.text import Text

from maedfer_lab.files import text_bytes, unpack_picture, write_aside

SMALL = 20e6  # parameters
SHOWN_PX = 560  # height of a figure in a notebook, at most
INK, GREY, MARK = "#222222", "#8a8a8a", "#e34a33"
# Ten colours that colour-blind eyes tell apart: seaborn's palette "colorblind", whose import takes
# as long as all the rest of drawing.
PALETTE = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc",
           "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9")  # fmt: skip
MODEL, INTERPOLATION, ZERO = PALETTE[:3]
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "text.color": INK,
    "axes.labelcolor": INK,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "svg.hashsalt": "maedfer_lab",  # the same file from the same numbers
}


FIGURES: dict[str, Callable[..., Page]] = {}
Draw = Callable[[Figure, dict[str, Any]], str]


def drawing(
    name: str, width: float = 1.0, height: float = 1.0, *, quoted: bool = False
) -> Callable[[Draw], Callable[..., Page]]:
    """Register how figure `name` is drawn: on an empty figure (inches), returning its caption.

    The function becomes one of the numbers alone, and of a path if the figure is to be written.

    name: of NAME.json; "" where there is none.
    quoted: the caption tells no run that the numbers come from.
    """

    def register(draw: Draw) -> Callable[..., Page]:
        @wraps(draw)
        def make(data: dict[str, Any], path: Path | None = None) -> Page:
            with rc_context(STYLE):
                figure = new_figure(width, height)
                caption(figure, draw(figure, data), None if quoted else data)
            if path is not None:
                save_figure(figure, path)
            return figure

        if name:
            FIGURES[name] = make
        return make

    return register


class Page(Figure):
    """A figure made without pyplot, so that nothing global changes; notebooks show it as PNG."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        file = BytesIO()
        with rc_context(STYLE):
            self.savefig(file, format="png", dpi=100)
        width, height = 100 * self.get_size_inches()
        scale = min(1, SHOWN_PX / height)
        return file.getvalue(), {"width": round(scale * width), "height": round(scale * height)}


def new_figure(width: float, height: float) -> Page:
    """An empty figure of `width` x `height` inches."""
    return Page(figsize=(width, height), layout="constrained")


def stack(figure: Figure, *heights: float) -> list[SubFigure]:
    """Cut a figure into rows of the given relative heights."""
    return list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])


def caption(figure: Figure, text: str, data: dict[str, Any] | None = None) -> None:
    """Write a caption under a figure, with the provenance of its numbers."""
    source = (data or {}).get("provenance")
    if source:
        small = source["profile"] != "full" and "seconds" in source  # something was trained
        scale = " (small scale, no reproduction)" if small else ""
        text += (
            f" Profile {source['profile']}{scale}; data: {source['data']}; "
            f"{source['device']}; {together('seed', source['seed'])}; "
            f"{together('commit', source['commit'])}."
        )
    for label in figure.findobj(Text):  # names of files and classes may hold any bytes
        label.set_text(text_bytes(label.get_text()).decode())  # type: ignore
    text = text_bytes(text).decode()
    columns = round(figure.get_figwidth() * 14)
    figure.supxlabel(  # a $ in a file's name is no formula
        textwrap.fill(text, columns), fontsize=9, color=INK, x=0.01, ha="left", parse_math=False
    )


def footer(sizes: Mapping[str, int]) -> str:
    """The footer of every exported picture: package and models.

    sizes: parameters of each model by its name; empty where there is none.
    """
    size = max(sizes.values(), default=0)
    small = "small model" if size < SMALL else f"{size / 1e6:.0f}M parameters"
    about = f"{', '.join(sizes)}, {small}" if sizes else "no model"
    return f"maedfer_lab, {about}, not for judging people"


def together(name: str, value: object) -> str:
    """A name and its value, between which no line of a caption may end."""
    return f"{name}\N{NO-BREAK SPACE}{value}"


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, aside and then renamed; equal numbers give equal bytes."""
    unstamped = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    kind, file = path.suffix.lower(), BytesIO()
    if kind not in unstamped:
        raise ValueError(
            f"out={str(path)!r} must end in one of {', '.join(unstamped)}; try {path.stem}.png"
        )
    with rc_context(STYLE):
        figure.savefig(file, format=kind[1:], metadata=unstamped[kind])
    write_aside(path, file.getvalue())
    return path


def bars(axis: Axes, names: Sequence[str], values: Any, words: Any, **more: Any) -> None:
    """Horizontal bars from the top down, each with its number (a format, or what is written)."""
    written: Any = {"fmt" if isinstance(words, str) else "labels": words}
    axis.bar_label(axis.barh(names, values, **more), **written, padding=3, fontsize=9)
    axis.invert_yaxis()


def outside_legend(figure: FigureBase, axes: Sequence[Axes], **more: Any) -> None:
    """One legend for all of the axes, each label once."""
    known: dict[str, Any] = {}
    for axis in axes:
        known |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(list(known.values()), list(known), **more)


def brightness(picture: np.ndarray) -> np.ndarray:
    """Grey level of a picture, 0 to 1; of a motion 0.5 is none."""
    return picture.astype(float) @ [0.299, 0.587, 0.114] / 255


def picture_rows(
    figure: FigureBase, rows: Sequence[dict[str, Any]], columns: Sequence[str]
) -> np.ndarray:
    """Draw rows of pictures (`reconstruction.reconstruction_rows`), labelled at the left.

    All motions share one scale, up to the strongest 0.2 % of the pixels. Returns the axes.
    """
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    moving = [brightness(unpack_picture(p)) - 0.5
              for row in rows if row.get("kind") == "motion" for p in row["pictures"]]  # fmt: skip
    most = max(0.02, float(np.quantile(np.abs(moving), 0.998))) if moving else 0.0
    for axes, row in zip(grid, rows, strict=True):
        for axis, picture in zip(axes, row["pictures"], strict=True):
            draw_picture(axis, unpack_picture(picture), most if row.get("kind") == "motion" else 0)
        axes[0].set_ylabel(row["label"], rotation=0, ha="right", va="center", labelpad=8)
    for axis, title in zip(grid[0], columns, strict=True):
        axis.set_title(title, fontsize=9.5)
    return grid


def draw_picture(axis: Axes, pixels: np.ndarray, motion: float = 0) -> None:
    """Show pixels without ticks; a motion up to +-`motion` (violet darker, orange brighter)."""
    if motion:
        change = brightness(pixels) - 0.5
        axis.imshow(change, cmap="PuOr_r", vmin=-motion, vmax=motion, interpolation="nearest")
    else:
        axis.imshow(pixels, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
