"""Figures from figures/NAME.json, without torch: `maedfer figures`, `make figures`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.figure import Figure

from maedfer_lab.figures.ablations import draw_ablations
from maedfer_lab.figures.attention import draw_attention, draw_locality
from maedfer_lab.figures.bench import draw_bench
from maedfer_lab.figures.finetune import draw_finetune
from maedfer_lab.figures.flops import draw_complexity, draw_flops
from maedfer_lab.figures.ledger import draw_folds, draw_ledger, draw_pretraining_log
from maedfer_lab.figures.method import draw_lgi_former, draw_masking, draw_tokens
from maedfer_lab.figures.paper import (
    draw_accuracy_flops,
    draw_class_recalls,
    draw_confusion,
)
from maedfer_lab.figures.style import (
    STYLE,
    Page,
    caption,
    new_figure,
    picture_format,
    picture_rows,
    save_figure,
)
from maedfer_lab.figures.timeline import draw_framings, draw_own_face, draw_timeline
from maedfer_lab.figures.training import (
    LiveCurve,
    draw_pretrain,
    draw_reconstruction,
    draw_weights,
)
from maedfer_lab.files import figures_folder, load, save

Format = Literal["png", "svg", "pdf"]
FIGURES: dict[str, Callable[[dict[str, Any]], Figure]] = {
    "01_clips_to_tokens": draw_tokens,
    "02_masking": draw_masking,
    "03_lgi_former": draw_lgi_former,
    "04_pretrain": draw_pretrain,
    "05_reconstruction": draw_reconstruction,
    "06_attention": draw_attention,
    "06_locality": draw_locality,
    "07_flops": draw_flops,
    "07_complexity": draw_complexity,
    "08_finetune": draw_finetune,
    "09_ledger": draw_ledger,
    "09_accuracy_flops": draw_accuracy_flops,
    "09_class_recalls": draw_class_recalls,
    "09_confusion": draw_confusion,
    "09_folds": draw_folds,
    "09_pretraining_log": draw_pretraining_log,
    "10_ablations": draw_ablations,
    "11_your_own_face": draw_own_face,
    "11_framings": draw_framings,
    "bench": draw_bench,
    "demo_weights": draw_weights,
}


def draw(path: Path, formats: tuple[Format, ...] = ("png",)) -> Figure:
    """Draw the figure of one NAME.json, write NAME.png (or others) beside it, and return it."""
    if path.stem not in FIGURES:
        raise ValueError(f"no figure is called {path.stem!r}; known: {', '.join(FIGURES)}")
    data, figure = load(path), Figure()
    for kind in formats:
        with rc_context(STYLE):
            figure = FIGURES[path.stem](data)  # anew: saving moves the parts of a figure
        save_figure(figure, path.with_suffix(f".{kind}"))
    return figure


def show(name: str, data: dict[str, Any]) -> Figure:
    """The figure of a notebook's numbers, to look at: nothing is written."""
    with rc_context(STYLE):
        return FIGURES[name](data)


def publish(name: str, data: dict[str, Any], source: dict[str, Any]) -> Figure:
    """Save a notebook's numbers with their provenance, then draw their figure from the file."""
    return draw(save(name, data, source))


def draw_rows(
    rows: Sequence[dict[str, Any]], columns: Sequence[str], text: str, path: Path | None = None
) -> Page:
    """Draw rows of pictures with a caption; written to `path` if one is given."""
    with rc_context(STYLE):
        figure = new_figure(1.6 + 1.35 * len(columns), 0.9 + 1.35 * len(rows))
        picture_rows(figure, rows, columns)
        caption(figure, text)
    if path is not None:
        save_figure(figure, path)
    return figure


def draw_figures(
    names: tuple[str, ...] = (),
    /,
    folder: Path | None = None,
    formats: tuple[Format, ...] = ("png",),
) -> str:
    """Draw figures again from their numbers.

    names: such as 04_pretrain; all by default.
    folder: where the NAME.json lie; the project's figures/ by default.
    formats: png, svg or pdf, or several of them; written beside the numbers.
    """
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        raise ValueError(f"no figure is called {unknown[0]!r}; known: {', '.join(FIGURES)}")
    root = folder or figures_folder("quick")
    paths = [root / f"{name}.json" for name in names or FIGURES]
    present = [path for path in paths if path.exists() or names]
    if not present:
        raise FileNotFoundError(f"no figure's numbers lie in {root}; `make reproduce` makes them")
    for path in present:
        draw(path, formats)
    return "\n".join(str(path.with_suffix(f".{kind}")) for path in present for kind in formats)


__all__ = [
    "FIGURES",
    "LiveCurve",
    "draw",
    "draw_figures",
    "draw_rows",
    "draw_timeline",
    "picture_format",
    "publish",
    "show",
]
