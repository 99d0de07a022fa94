"""Figure of `maedfer bench`: floor, ours and plain code, for every piece of work."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maedfer_lab.figures import style
from maedfer_lab.figures.style import GREY, INTERPOLATION, MODEL, together

SIDES = {
    "floor": ("floor", "#d4d4d4", ""),
    "ours": ("ours", MODEL, ""),
    "plain": ("plain implementation", INTERPOLATION, "///"),
}
SECTIONS = {  # title, what the bars measure, that in a second
    "model": ("models: time relative to the matrix products alone",
              "time / time of the products alone (floor)", 1.0),
    "data": ("clips for training: time per clip on one core", "milliseconds", 1e3),
    "evaluation": ("test set: time per video", "seconds", 1.0),
    "waiting": ("latency: imports, first cell, viewers, checkpoints", "seconds", 1.0),
    "gpu": ("on a GPU: time per clip", "milliseconds", 1e3),
}  # fmt: skip
BAR = 0.27  # of the room of a row
ROW, HEAD, FOOT = 0.42, 0.75, 0.95  # inches


@style.drawing("bench", quoted=True)
def draw_bench(figure: Figure, data: dict[str, Any]) -> str:
    """Bars of every section that was measured; the length of a text tells its seconds."""
    rows = {name: [row for row in data["rows"] if row["section"] == name and _has_bar(row)]
            for name in SECTIONS}  # fmt: skip
    longer = _ratios(data["rows"])
    columns = [[(name, HEAD + ROW * len(rows[name])) for name in column if rows[name]]
               for column in (("model",), tuple(SECTIONS)[1:])]  # fmt: skip
    if longer and columns[0]:
        columns[0].append(("frames", 2.4))
    columns = [column for column in columns if column]
    tall = max((sum(height for _, height in column) for column in columns), default=2.0)
    figure.set_size_inches(6.2 * max(1, len(columns)), tall + FOOT)
    parts = figure.subfigures(1, max(1, len(columns)), squeeze=False)[0]
    for part, column in zip(parts, columns, strict=False):
        ratios = [height for _, height in column]
        axes = part.subplots(len(column), 1, height_ratios=ratios, squeeze=False)[:, 0]
        for axis, (name, _) in zip(axes, column, strict=True):
            if name == "frames":
                _frames(axis, longer)
            else:
                _bars(axis, name, rows[name])
    every = [axis for part in parts for axis in part.axes]
    style.outside_legend(figure, every, loc="outside upper center", ncols=4)
    source = data["provenance"]
    smoke = " Smoke mode: tiny models, meaningless times." * (source["profile"] == "smoke")
    return (
        f"Medians of interleaved rounds of floor, ours and plain, as times at the bars; thin "
        "lines: quartiles. Plain: as in the official code; floor: lower bound of any code. "
        f"{source['machine']}; {source['device']}; PyTorch "
        f"{source['versions']['torch']}; {together('commit', source['commit'])}; "
        f"{together('seed', source['seed'])}.{smoke}"
    )


style.FIGURES["bench_gpu"] = draw_bench


def _has_bar(row: dict[str, Any]) -> bool:
    """Rows without a floor or a plain way have a bar among the waits alone."""
    if row["section"] in ("waiting", "gpu"):  # others would dwarf what people look at
        return row["name"] != "import torch" and row["item"] != "step"
    return row["floor"] is not None or row["plain"] is not None


def _bars(axis: Axes, section: str, rows: list[dict[str, Any]]) -> None:
    """Three thin bars a row, each with its time; models in units of their floor."""
    longest, (title, measured, unit) = 0.0, SECTIONS[section]
    for place, row in enumerate(rows):
        scale = 1 / row["floor"]["median"] if section == "model" else unit
        present = [side for side in SIDES if row[side] is not None]
        for k, side in enumerate(present):
            name, colour, hatch = SIDES[side]
            median, (low, high) = row[side]["median"], row[side]["quartiles"]
            y = place + (k - (len(present) - 1) / 2) * BAR
            axis.barh(y, median * scale, BAR * 0.92, color=colour, hatch=hatch,
                      edgecolor="white", linewidth=0, label=name)  # fmt: skip
            axis.plot([low * scale, high * scale], [y, y], color="black", linewidth=0.8)
            end = max(median, high) * scale
            longest = max(longest, end)
            words = f"{median:.3g} s" if median >= 1 else f"{median * 1e3:.3g} ms"
            if section == "model" and side != "floor":
                words = f"x {median * scale:.2f} ({words})"
            axis.annotate(words, (end, y), (3, 0), textcoords="offset points", va="center",
                          fontsize=7.5)  # fmt: skip
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8.5)
    axis.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, longest * 1.22), title=title, xlabel=measured)
    axis.tick_params(axis="y", length=0)
    if section == "model":
        axis.axvline(1, color=GREY, linewidth=0.8, zorder=0)


def _ratios(rows: list[dict[str, Any]]) -> dict[int, float]:
    """LGI-B's forward time over ViT-B's by the number of frames, where both were measured."""
    ours = {row["name"]: row["ours"]["median"] for row in rows}
    found = {}
    for frames in (16, 32, 64):
        what = "float32" if frames == 16 else f"{frames} frames"
        lgi, vit = (ours.get(f"{name}-B forward, {what}") for name in ("LGI", "ViT"))
        if lgi and vit:
            found[frames] = lgi / vit
    return found if len(found) > 1 else {}


def _frames(axis: Axes, ratios: dict[int, float]) -> None:
    """How the advantage of local-global attention grows with the clip."""
    axis.plot(list(ratios), list(ratios.values()), "o-", color=MODEL)
    for frames, ratio in ratios.items():
        axis.annotate(f"{ratio:.2f}", (frames, ratio), (0, 6), textcoords="offset points",
                      ha="center", fontsize=8.5)  # fmt: skip
    axis.axhline(0.6, color=GREY, linestyle="--", linewidth=0.8)
    axis.annotate("aim at 16 frames", (max(ratios), 0.6), (0, 3), textcoords="offset points",
                  ha="right", fontsize=8, color=GREY)  # fmt: skip
    axis.set_xticks(list(ratios))
    axis.set(title="forward, float32: LGI-B's time over ViT-B's", xlabel="frames of a clip",
             ylim=(0, max(0.75, 1.2 * max(ratios.values()))))  # fmt: skip
