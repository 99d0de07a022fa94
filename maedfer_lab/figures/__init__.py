"""Figures from figures/NAME.json, without torch: `maedfer figures`, `make figures`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from maedfer_lab.config import choose
from maedfer_lab.figures import bench, encoder, method, results
from maedfer_lab.figures.method import LiveCurve
from maedfer_lab.figures.style import FIGURES, Page, drawing, footer, picture_rows, save_figure
from maedfer_lab.figures.timeline import draw_movement, draw_timeline
from maedfer_lab.files import figures_folder, load, reading, save

Format = Literal["png", "svg", "pdf"]


def draw(path: Path, formats: tuple[Format, ...] = ("png",)) -> Page:
    """Draw the figure of one NAME.json, write NAME.png (or others) beside it, and return it."""
    choose("figure", path.stem, tuple(FIGURES))
    with reading(path, "put a copy back, or run its notebook again"):
        data = load(path)
        drawn = [show(path.stem, data) for _ in formats]  # saving moves the parts of a figure
        for kind, figure in zip(formats, drawn, strict=True):
            save_figure(figure, path.with_suffix(f".{kind}"))
    return drawn[-1] if drawn else Page()


def show(name: str, data: dict[str, Any]) -> Page:
    """The figure of a notebook's numbers; nothing is written."""
    return FIGURES[choose("figure", name, tuple(FIGURES))](data)


def publish(name: str, data: dict[str, Any], source: dict[str, Any], beside: str = "") -> Page:
    """Save a notebook's numbers with their provenance, then draw their figure from the file."""
    return draw(save(name, data, source, beside))


def draw_rows(
    rows: Sequence[dict[str, Any]], columns: Sequence[str], text: str, path: Path | None = None
) -> Page:
    """Draw rows of pictures with a caption; written to `path` if one is given."""

    @drawing("", 1.6 + 1.35 * len(columns), 0.9 + 1.35 * len(rows), quoted=True)
    def make(figure: Figure, _: dict[str, Any]) -> str:
        picture_rows(figure, rows, columns)
        return text

    return make({}, path)


def beside(*pages: Page) -> Any:
    """Figures side by side if the notebook is wide enough."""
    from IPython.display import HTML

    files = [base64.b64encode(page._repr_png_()[0]).decode() for page in pages]
    style = "flex: none; max-width: max(49%, 400px); max-height: 800px"
    tags = [f'<img style="{style}" src="data:image/png;base64,{file}">' for file in files]
    row = "display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1%"
    return HTML(f'<div style="{row}">{"".join(tags)}</div>')


@cache
def colour_table(name: str) -> np.ndarray:
    """256 colours (uint8) of a Matplotlib map, from its low to its high end."""
    table = (colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)
    table.flags.writeable = False
    return table


def draw_figures(
    names: tuple[str, ...] = (), /, folder: Path | None = None,
    formats: tuple[Format, ...] = ("png",),
) -> str:  # fmt: skip
    """Redraw figures from their numbers.

    names: e.g. 04_pretrain; all by default.
    folder: of the NAME.json files; the project's figures/ by default.
    formats: png, svg or pdf, or several of them; written next to the numbers.
    """
    for name in names:
        choose("figure", name, tuple(FIGURES))
    root = folder or figures_folder("quick")
    paths = [root / f"{name}.json" for name in names or sorted(FIGURES)]
    present = [path for path in paths if path.exists() or names]
    if not present:
        raise FileNotFoundError(f"no figure's numbers are in {root}; `make reproduce` makes them")
    for path in present:
        draw(path, formats)
    return "\n".join(str(path.with_suffix(f".{kind}")) for path in present for kind in formats)
