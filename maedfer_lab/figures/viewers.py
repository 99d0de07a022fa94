"""What viewers need of Matplotlib: their static figure, and colour tables."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from matplotlib import colormaps

from maedfer_lab.figures import draw_rows
from maedfer_lab.figures.style import Page

LABEL_LETTERS = 20


@cache
def colour_table(name: str) -> np.ndarray:
    """256 colours (uint8) of a Matplotlib map, from its low to its high end."""
    table = (colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)
    table.flags.writeable = False
    return table


def draw_viewer(rows: Sequence[dict[str, Any]], columns: Sequence[str], text: str) -> Page:
    """Rows of pictures with labels and a caption; names in them are taken as they are."""
    wrapped = [
        {**row, "label": "\n".join(textwrap.wrap(_literal(row["label"]), LABEL_LETTERS))}
        for row in rows
    ]
    return draw_rows(wrapped, columns, text)


def _literal(text: str) -> str:
    return text.replace("$", r"\$")  # else Matplotlib reads what lies between two as mathematics
