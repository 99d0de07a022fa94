"""Figures of notebooks 08 and 10, the study, and of 09, the paper's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from maedfer_lab.figures import style
from maedfer_lab.figures.style import GREY, INK, MODEL, PALETTE, drawing

# Colours by what is shown, never by rank.
LOOKS = {
    ("fine-tuned", "pre-trained"): (PALETTE[0], "o", "-"),
    ("fine-tuned", "pre-trained, 4 x length"): (PALETTE[4], "D", "-"),
    ("fine-tuned", "from scratch"): (PALETTE[3], "s", "-"),
    ("fine-tuned", "small conv net"): (GREY, "^", "--"),
    ("linear probe", "pre-trained"): (PALETTE[0], "o", "-"),
    ("linear probe", "pre-trained, 4 x length"): (PALETTE[4], "D", "-"),
    ("attentive probe", "pre-trained"): (PALETTE[9], "X", "-"),
    ("kNN", "pre-trained"): (PALETTE[0], "v", ":"),
    ("linear probe", "random, frozen"): (PALETTE[1], "o", "-"),
    ("kNN", "random, frozen"): (PALETTE[1], "v", ":"),
    ("linear probe", "pixels"): (PALETTE[2], "P", "--"),
}
CHANCE = {"expression": 100 / 7, "direction": 50.0}


@drawing("08_finetune", 10.5, 11)
def draw_finetune(figure: Figure, data: dict[str, Any]) -> str:
    """UAR against labels, fine-tuned and probed; and confusion matrices."""
    top, middle, bottom = style.stack(figure, 3.6, 3.6, 3.4)
    probes = ("linear probe", "attentive probe", "kNN")
    for part, ways, what in ((top, ("fine-tuned",), "all parameters trained"),
                             (middle, probes, "frozen features")):  # fmt: skip
        for axis, label in zip(part.subplots(1, 2), CHANCE, strict=True):
            _curves(axis, [c for c in data["curves"] if c["label"] == label and c["how"] in ways])
            for point in data["own"]:
                if point["label"] == label and point["how"] in ways:
                    colour = LOOKS[point["how"], point["start"]][0]
                    axis.plot(point["labels"], 100 * point["uar"], "*", color=colour,
                              markersize=14, markeredgecolor=INK, zorder=5)  # fmt: skip
            axis.set(title=f"{label}, {what}", ylabel="UAR on held-out people (%)")
            axis.axhline(CHANCE[label], color=INK, linestyle=":", linewidth=1)
            if "fine-tuned" in ways:
                axis.legend(fontsize=8, loc="best")
            else:  # many curves: the legend gets a place above them
                low, high = axis.get_ylim()
                axis.set_ylim(low, high + 0.4 * (high - low))
                axis.legend(fontsize=7.5, loc="upper left", ncols=2)
    axes = bottom.subplots(1, len(data["confusions"]), sharey=True, squeeze=False)[0]
    places = range(len(data["classes"]))
    for axis, (start, matrix) in zip(axes, data["confusions"].items(), strict=True):
        counts = np.array(matrix)
        shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
        picture = axis.imshow(shares, cmap="cividis", vmin=0, vmax=100)
        axis.set(title=start, xlabel="predicted class")
        axis.set_xticks(places, data["classes"], rotation=60, ha="right", fontsize=8)
        axis.set_yticks(places, data["classes"], fontsize=8)
    axes[0].set_ylabel("true class")
    bottom.colorbar(picture, ax=axes, label="share of the true class (%)", shrink=0.8)
    own = " Stars: this machine's own runs." if data["own"] else ""
    return (
        f"The committed study on drawn faces ({data['seeds']} seeds, each with other people; "
        f"docs/study.md). Means and 95 % intervals (Student's t over seeds); dotted: chance.{own} "
        "Top: the same head and steps for every start; conv net: a small supervised control. "
        "Middle: standardised features of the frozen encoder, of a random one, and pixels. "
        f"Bottom: fine-tuned with {data['confused_at']} labels, summed over seeds; rows are true "
        "classes and sum to 100 %."
    )


def _curves(axis: Axes, curves: list[dict[str, Any]]) -> None:
    for curve in curves:
        colour, marker, line = LOOKS[curve["how"], curve["start"]]
        how = "" if curve["how"] == "fine-tuned" else f": {curve['how']}"
        x = [point["labels"] for point in curve["points"]]
        y = 100 * np.array([point["mean"] for point in curve["points"]])
        half = 100 * np.array([point["half"] or 0 for point in curve["points"]])
        axis.fill_between(x, y - half, y + half, color=colour, alpha=0.15, linewidth=0)
        axis.errorbar(x, y, half, color=colour, marker=marker, linestyle=line, markersize=5,
                      capsize=3, label=curve["start"] + how)  # fmt: skip
    ticks = sorted({point["labels"] for curve in curves for point in curve["points"]})
    axis.set(xscale="log", xlabel="labelled clips")
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()


PANELS = {
    "expression": ("UAR, expression (%)", 100), "direction": ("UAR, direction (%)", 100),
    "appearance": ("appearance / baseline", 1), "motion": ("motion / baseline", 1),
}  # fmt: skip


@drawing("10_ablations")
def draw_ablations(figure: Figure, data: dict[str, Any]) -> str:
    """A line per variant, a panel per score; below, the held-out losses over the steps."""
    rows = data["rows"]
    figure.set_size_inches(10.5, 5.2 + 0.38 * len(rows))
    top, bottom = style.stack(figure, 1.6 + 0.38 * len(rows), 3.2)
    axes = top.subplots(1, len(PANELS), sharey=True)
    for axis, (name, (label, scale)) in zip(axes, PANELS.items(), strict=True):
        for y, row in enumerate(rows):
            if found := row[name]:
                gap = row[f"{name} difference"]
                apart = gap and gap["half"] is not None and abs(gap["mean"]) > gap["half"]
                axis.errorbar(scale * found["mean"], y, xerr=scale * (found["half"] or 0), fmt="o",
                              color=PALETTE[0], markersize=5, capsize=3,
                              markerfacecolor=PALETTE[0] if apart else "white")  # fmt: skip
                axis.plot(scale * np.array(found["values"]), [y + 0.25] * len(found["values"]), ".",
                          color=GREY, markersize=3)  # fmt: skip
        axis.set_xlabel(label)
        axis.axvline(CHANCE.get(name, 1), color=INK, linestyle=":", linewidth=1)
    names = [f"{row['variant']}\n{row['gmacs'] * 1000:.0f} MMACs, {row['parameters'] / 1e6:.2f}M"
             for row in rows]  # fmt: skip
    axes[0].set_yticks(range(len(rows)), names, fontsize=8)
    axes[0].invert_yaxis()
    kinds = enumerate(("appearance", "motion"), 1)
    for axis, (place, kind) in zip(bottom.subplots(1, 2), kinds, strict=True):
        for number, (name, curve) in enumerate(data["losses"].items()):
            if len(curve[0]) > place:
                axis.plot([c[0] for c in curve], [c[place] for c in curve], "o-",
                          color=PALETTE[number], markersize=4, label=name)  # fmt: skip
        axis.axhline(1, color=INK, linestyle=":", linewidth=1)
        axis.set(xlabel="step", ylabel=f"held-out {kind} / baseline")
        if place == 1:  # the same lines in both
            axis.legend(fontsize=8)
    return (
        f"One thing changed in the pre-training of the first row ({data['reference']}), fine-tuned "
        f"with {rows[0]['labels']} labels (direction: {rows[0]['direction labels']}); three seeds "
        "(first row, 4 x length: five), each with other people. Means and 95 % intervals "
        "(Student's t), dots: seeds; filled: the interval of the paired difference from the first "
        "row excludes zero. Dotted: chance, or the better baseline (zero, interpolation). Below: "
        "mean held-out losses during training."
    )


WIDTH = 6.4
OURS = "MAE-DFER"
VOX, KINETICS = "VideoMAE (VoxCeleb2)", "VideoMAE (Kinetics-400)"
METHODS = {OURS: (MODEL, "o"), VOX: (PALETTE[1], "s"), KINETICS: (PALETTE[2], "^")}
AREA = 0.9  # points^2 for a million parameters
UNKNOWN_AREA = 30


@drawing("09_accuracy_flops", WIDTH, 10.6, quoted=True)
def draw_accuracy_flops(figure: Figure, data: dict[str, Any]) -> str:
    """UAR against FLOPs with parameters as area: the paper's table, and methods up to now."""
    top, middle, bottom = figure.subplots(3, 1, height_ratios=[1, 0.85, 1.15])
    known = [p for p in data["now"] if p["flops"] is not None]
    for axis, points, title, span in (
        (top, data["then"], f"2023: the paper's table ({data['dataset']})", (41, 66)),
        (middle, known, "2022 to 2026", (57.5, 65.5)),
    ):
        for point in points:
            if point["flops"] is not None:
                _mark(axis, point, point["flops"], point["uar"])
                x, y, align = LABEL_AT.get(point["method"], (11, 0, "left"))
                axis.annotate(point["method"], (point["flops"], point["uar"]), (x, y), ha=align,
                              fontsize=7.5, textcoords="offset points", va="center")  # fmt: skip
        axis.set(title=title, xlim=(0, 100), ylim=span, ylabel="UAR, %",
                 xlabel="GMACs for a clip (what the paper calls FLOPs)")  # fmt: skip
    ranked = sorted((p for p in data["now"] if p["flops"] is None), key=lambda p: p["uar"])
    for y, point in enumerate(ranked):
        _mark(bottom, point, point["uar"], y)
    for point in known:
        if point["method"] in METHODS:
            bottom.axvline(point["uar"], color=METHODS[point["method"]][0], linestyle="--",
                           linewidth=1, zorder=0, label=point["method"])  # fmt: skip
    bottom.set_yticks(range(len(ranked)), [p["method"] for p in ranked], fontsize=7)
    bottom.grid(axis="y", color=GREY, alpha=0.2, linewidth=0.6)
    bottom.set_axisbelow(True)
    bottom.set(title="2022 to 2026, FLOPs not found", xlabel="UAR, %", ylim=(-1, len(ranked)))
    bottom.legend(loc="lower right", fontsize=8)
    dot: dict[str, Any] = {"linestyle": "", "color": GREY}
    sizes = [
        Line2D([], [], marker="o", alpha=0.6, label=f"{n}M", markersize=(n * AREA) ** 0.5, **dot)
        for n in (18, 85)
    ]
    sizes.append(Line2D([], [], marker="x", label="not printed", **dot))
    top.legend(handles=sizes, title="parameters", loc="lower right")
    return (
        f"UAR on {data['dataset']} (5 folds) as printed. Area: parameters; cross: not printed; "
        "diamond: language model of 7B. Below: methods that print no FLOPs, so their cost is not "
        "shown; dashed: those of the panel above. Some methods tune only a part of their "
        "parameters, some also use sound or text."
    )


LABEL_AT = {  # offset in points and alignment where the usual place is taken
    "M3DFEL": (-6, 9, "left"), "DPCNet": (11, 3, "left"), "IAL": (11, 1, "left"),
    "NR-DFERNet": (22, 3, "left"), "Former-DFER": (11, -5, "left"),
    "ResNet-18+GRU": (11, 2, "left"), "ResNet-18+LSTM": (11, -7, "left"), "C3D": (-11, 0, "right"),
    VOX: (0, -15, "center"), KINETICS: (0, -15, "center"),
    "SVFAP-B (reproduced)": (0, 11, "center"), "SVFAP-B": (0, -12, "center"),
    "DFER-CLIP": (0, -15, "center"),
}  # fmt: skip


def _mark(axis: Axes, point: dict[str, Any], x: float, y: float) -> None:
    size = point["params"]
    shape, area = ("x", UNKNOWN_AREA) if size is None else ("o", size * AREA)
    if size is not None and size > 1000:
        shape, area = "D", UNKNOWN_AREA
    colour = METHODS.get(point["method"], (GREY, ""))[0]
    axis.scatter(x, y, s=area, marker=shape, color=colour, alpha=0.75, linewidths=1, zorder=2)


@drawing("09_class_recalls", WIDTH, 8.6, quoted=True)
def draw_class_recalls(figure: Figure, data: dict[str, Any]) -> str:
    """Recall of each class, most frequent class on top."""
    panels = data["panels"]
    heights = [len(panel["labels"]) for panel in panels]
    axes = figure.subplots(len(panels), 1, height_ratios=heights, sharex=True)
    for axis, panel in zip(axes, panels, strict=True):
        order, best = np.argsort(panel["clips"]), ""
        names = [f"{panel['labels'][i]} ({panel['clips'][i]:,})" for i in order]
        for place, method in enumerate(panel["methods"]):  # beside one another, none is hidden
            label = method["method"]
            if label not in METHODS:
                best, label = best or label, "best supervised method"
            colour, shape = METHODS.get(label, (GREY, "D"))
            y = np.arange(len(order)) + 0.2 * ((len(panel["methods"]) - 1) / 2 - place)
            axis.plot(np.array(method["recalls"])[order], y, shape, color=colour, markersize=4.5,
                      label=label, clip_on=False)  # fmt: skip
        axis.set_yticks(range(len(order)), names, fontsize=8.5)
        axis.set(title=f"{panel['dataset']} (best supervised: {best})", xlim=(0, 100))
        axis.set_ylim(-0.5, len(order) - 0.5)
        axis.tick_params(axis="y", length=0)
        for y in range(0, len(order), 2):
            axis.axhspan(y - 0.5, y + 0.5, color=GREY, alpha=0.1, linewidth=0)
    axes[-1].set_xlabel("recall, %")
    style.outside_legend(figure, axes[:1], loc="outside upper center", ncols=2)
    return (
        "Recall per class as printed, with the number of clips in the test parts; the best "
        "supervised method is that of highest UAR among rows with class columns. The vertical "
        "place within a band has no meaning; no document prints intervals."
    )


@drawing("09_confusion", WIDTH, 8.6, quoted=True)
def draw_confusion(figure: Figure, data: dict[str, Any]) -> str:
    """The published confusion matrices."""
    grid = figure.add_gridspec(2, 2, height_ratios=[1, 1.75])
    places = [grid[0, 0], grid[0, 1], grid[1, :]]
    for place, matrix in zip(places, data["matrices"], strict=True):
        axis = figure.add_subplot(place)
        shares = 100 * np.array(matrix["shares"])
        axis.imshow(shares, cmap="cividis", vmin=0, vmax=100)
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                if share >= 0.5:
                    axis.text(j, i, f"{share:.0f}", ha="center", va="center", fontsize=7,
                              color="black" if share > 50 else "white")  # fmt: skip
        ticks = range(len(matrix["labels"]))
        names = [f"{n} ({c})" for n, c in zip(matrix["labels"], matrix["clips"], strict=True)]
        axis.set_yticks(ticks, names, fontsize=7.5)
        axis.set_xticks(ticks, matrix["labels"], fontsize=7.5, rotation=90)
        axis.set_xlabel("predicted class", fontsize=8.5)
        axis.set_ylabel("true class (clips)", fontsize=8.5)
        scores = f"UAR {matrix['uar']:.2%}, WAR {matrix['war']:.2%}"
        axis.set_title(f"{matrix['title']}\n{scores}", fontsize=9)
        axis.spines[:].set_visible(False)
    return (
        "MAE-DFER's final evaluations as the authors' logs print them: the percentage of a "
        "class's clips (row, their number in brackets) predicted as each class (column), from "
        "0.5 % on. One fold of five where there are folds."
    )


RUNS = {  # by whom -> colour, shape, words
    "ours": (INK, "*", "measured here"),
    "released": (MODEL, "o", "authors, published weights"),
    "original": (MODEL, "D", "authors, the paper's run"),
    "reproduced": (MODEL, "o", ""),
    "issue 21": (PALETTE[1], "s", "issue 21 (independent)"),
    "MAE-DFER-CA": (PALETTE[2], "^", "MAE-DFER-CA (independent)"),
    "issue 12": (PALETTE[3], "v", "issue 12 (own pre-training)"),
    "issue 14": (PALETTE[4], "P", "issue 14 (data in doubt)"),
}


@drawing("09_folds", WIDTH, 6.8, quoted=True)
def draw_folds(figure: Figure, data: dict[str, Any]) -> str:
    """UAR and WAR per fold, with intervals, and independent reproductions."""
    folds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in sorted(data["rows"], key=lambda row: (row["dataset"], row["fold"] == "mean",
                                                     row["fold"])):  # fmt: skip
        folds.setdefault((row["dataset"], row["fold"]), []).append(row)
    sets = [dataset for dataset, _ in folds]
    heights = [-(i + 0.8 * list(dict.fromkeys(sets)).index(name)) for i, name in enumerate(sets)]
    axes = figure.subplots(1, 2, sharey=True)
    for axis, score in zip(axes, ("uar", "war"), strict=True):
        places = dict(zip(folds, heights, strict=True))
        for row in data["rows"]:
            own = folds[row["dataset"], row["fold"]]
            y = places[row["dataset"], row["fold"]] + 0.22 * ((len(own) - 1) / 2 - own.index(row))
            colour, shape, words = RUNS[row["by"]]
            axis.errorbar(
                row[score], y, xerr=row[f"{score}_interval"], fmt=shape, color=colour,
                markersize=5, elinewidth=1, capsize=0, label=words or None,
            )  # fmt: skip
        axis.set(title=score.upper(), xlabel="%")
        axis.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
    words = {"all": "test", "mean": "mean"}
    names = [f"{name}, {words.get(fold, f'fold {fold}')}" for name, fold in folds]
    axes[0].set_yticks(heights, names, fontsize=8.5)
    style.outside_legend(figure, axes[:1], loc="outside upper center", ncols=2, fontsize=8)
    return (
        "Published checkpoints and independent fine-tunings. Bars: 95 % intervals from the size "
        "of the test set alone (UAR: from the class recalls of the paper's table); they leave out "
        "the variation between training runs."
    )


@drawing("09_pretraining_log", WIDTH, 4.8, quoted=True)
def draw_pretraining_log(figure: Figure, data: dict[str, Any]) -> str:
    """The published pre-training loss and learning rate, with our own runs over the loss."""
    top, bottom = figure.subplots(2, 1, height_ratios=[2, 1], sharex=True)
    millions = np.array(data["clips"]) / 1e6
    top.plot(millions, data["loss"], "o-", color=MODEL, markersize=3, linewidth=1.2,
             label="published log, mean of each epoch")  # fmt: skip
    for run, colour in zip(data["runs"], PALETTE[1:] * 9, strict=False):
        top.plot(np.array(run["clips"]) / 1e6, run["loss"], "--", color=colour, label=run["name"])
    if data["runs"]:
        top.set_xscale("log")
    top.set(ylabel="loss (cube units)", title="pre-training on VoxCeleb2, 50 of 100 planned epochs")
    top.legend(loc="lower left" if data["runs"] else "upper right")
    bottom.plot(millions, 1e4 * np.array(data["learning_rate"]), "o-", color=INK, markersize=3,
                linewidth=1)  # fmt: skip
    bottom.set(xlabel="clips seen, millions", ylabel="learning rate x $10^4$", ylim=(0, 2))
    return (
        "Loss of MAE-DFER's published pre-training, lambda = 0.5, and the mean learning rate of "
        "each epoch. The published weights are those of the last point, half-way through the "
        "schedule. No loss on held-out clips was published."
    )


STATUSES = {
    "recomputed": (MODEL, ""), "contradicted": (PALETTE[3], "////"), "needs data": ("#d0d0d0", ""),
    "measured": (PALETTE[2], ""), "not found": ("white", "...."),
}  # fmt: skip


@drawing("09_ledger", WIDTH, 7.4, quoted=True)
def draw_ledger(figure: Figure, data: dict[str, Any]) -> str:
    """Claims by kind and status; below, by how much the contradicted percentages are off."""
    top, bottom = figure.subplots(2, 1, height_ratios=[1, 1])
    kinds, edge = data["kinds"], {"edgecolor": INK, "linewidth": 0.6}
    for y, counts in enumerate(kinds.values()):
        left = 0
        for status, (colour, hatch) in STATUSES.items():
            if count := counts.get(status, 0):
                top.barh(y, count, left=left, color=colour, hatch=hatch, **edge)
                left += count
        words = " + ".join(f"{n} {s}" if s == "contradicted" else str(n) for s, n in counts.items())
        top.text(left + 2, y, words, va="center", fontsize=8)
    top.set_yticks(range(len(kinds)), list(kinds), fontsize=8.5)
    top.invert_yaxis()
    totals = data["totals"]
    top.set(xlabel="claims", xlim=(0, 1.55 * max(sum(c.values()) for c in kinds.values())),
            title=f"{sum(totals.values())} numeric claims")  # fmt: skip
    for status, (colour, hatch) in STATUSES.items():
        top.barh(0, 0, color=colour, hatch=hatch, label=f"{status} ({totals[status]})", **edge)
    top.legend(loc="upper right", fontsize=8.5)
    wrong = [claim for claim in data["contradicted"] if claim["unit"] == "percent"]
    for y, claim in enumerate(wrong):
        off, tolerance = claim["value"] - claim["found"], claim["tolerance"]
        bottom.plot([0, off], [y, y], color=PALETTE[3], linewidth=1)
        bottom.plot(off, y, "o", color=PALETTE[3], markersize=5)
        bottom.plot([-tolerance, tolerance], [y, y], color=GREY, linewidth=6, alpha=0.6,
                    solid_capstyle="butt")  # fmt: skip
    names = [short(claim["statement"]) for claim in wrong]
    bottom.set_yticks(range(len(wrong)), names, fontsize=8.5)
    bottom.invert_yaxis()
    bottom.axvline(0, color=INK, linewidth=0.8)
    bottom.set(xlabel="printed minus recomputed, percentage points", title="contradicted scores")
    return (
        "Above: numbers of claims by kind of check and by verdict. Below: printed "
        "scores that do not follow from the printed class columns; grey: what rounding (and means "
        "over folds) would allow. "
        f"Contradictions that are not percentages: {len(data['contradicted']) - len(wrong)}."
    )


def short(statement: str) -> str:
    """Data set, method and score in a claim's statement."""
    subject, _, rest = statement.partition(": ")
    subject = subject.replace("(Kinetics-400)", "(K.)")
    return f"{subject}: {rest.split()[0]}" + (", elsewhere" if "printed elsewhere" in rest else "")
