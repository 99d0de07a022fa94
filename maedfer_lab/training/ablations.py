"""Ablations: variants of one recipe under one budget, over several seeds, with their exact cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from maedfer_lab.config import (
    AblationConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    Shape3,
)
from maedfer_lab.cost.counters import count_with_torch, model_for_counting
from maedfer_lab.cost.formula import macs, token_grid
from maedfer_lab.training.finetune import finetune

Row = dict[str, Any]
Interval = dict[str, Any]  # "values", "mean", and "half" (None for a single value)

SCORES = ("uar", "war", "appearance", "motion")
COLUMNS = ("26", *3 * [">16"], *3 * [">9"])  # of the printed table
NO_DIFFERENCE = "no difference shown"
# 97.5 % quantiles of Student's t distribution for 1 to 9 degrees of freedom.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
GRID_WIDTHS = 6  # positions="grid" gives each of three axes a sine and a cosine


def variants(reference: PretrainConfig) -> dict[str, PretrainConfig | None]:
    """All variants by name: `reference` with one thing changed; None is no pre-training.

    lambda weighs appearance: motion_weight = 1 - lambda (Sun et al., section 3.3). Masking ratios
    are those next to 50 and 75 % that hide a whole number of a region's places.
    """

    def model(**changes: Any) -> PretrainConfig:
        return replace(reference, model=replace(reference.model, **changes))

    def weighted(lam: float) -> PretrainConfig:
        return replace(reference, target=replace(reference.target, motion_weight=1 - lam))

    found: dict[str, PretrainConfig | None] = {
        "joint, lambda 0.5": weighted(0.5),
        "appearance only, lambda 1": weighted(1.0),
        "joint, lambda 0.75": weighted(0.75),
        "joint, lambda 0.25": weighted(0.25),
        "motion only, lambda 0": weighted(0.0),
        "no pre-training": None,
        "without stage 2": model(inter=False),
        "without stage 3": model(interact="none"),
        "without stages 2 and 3": model(inter=False, interact="none"),
        "legacy token order": model(legacy_visible_order=True),
        "ViT at equal cost": replace(reference, model=vit_of_equal_cost(reference.model)),
    }
    for region in other_regions(reference):
        found[f"region {' x '.join(map(str, region))}"] = model(region=region)
    places = reference.model.region[1] * reference.model.region[2]
    for hidden in sorted({round(places * share) for share in (0.5, 0.75)}):
        ratio = hidden / places
        if 0 < hidden < places and ratio not in reference.mask_ratio:
            found[f"{ratio:.0%} masked"] = replace(reference, mask_ratio=(ratio,))
    return found


def other_regions(reference: PretrainConfig) -> list[Shape3]:
    """Regions that differ from the reference's in time, or in space (half or all of each side).

    All divide the grid and can hide the reference's share of their places.
    """
    t, h, w = token_grid(reference.model)
    own_t, own_h, own_w = own = reference.model.region
    sizes = {(length, own_h, own_w) for length in range(1, t + 1)}
    sizes |= {(own_t, height, width) for height in (h // 2, h) for width in (w // 2, w)}
    return sorted(s for s in sizes - {own} if _fits(s, (t, h, w), reference.mask_ratio))


def _fits(region: Shape3, grid: Shape3, ratios: Sequence[float]) -> bool:
    divides = all(r and g % r == 0 for r, g in zip(region, grid, strict=True))
    hidden = [ratio * region[1] * region[2] for ratio in ratios]
    return divides and all(abs(x - round(x)) < 1e-6 for x in hidden)


def vit_of_equal_cost(model: ModelConfig) -> ModelConfig:
    """A ViT of the same depth and heads, as wide as makes a forward pass cost most nearly the same.

    Its cost is counted by closed formula, for classification.
    """
    step = math.lcm(GRID_WIDTHS, model.num_heads)
    goal = sum(macs(model).values())
    vits = [
        replace(model, encoder="vit", width=width) for width in range(step, 4 * model.width, step)
    ]
    return min(vits, key=lambda vit: abs(sum(macs(vit).values()) - goal))


@dataclass(frozen=True)
class Ablation:
    """A row for each variant, the first being the reference, and where the numbers come from.

    A row holds `uar` and `war` in [0, 1] on unseen people and the held-out `appearance` and
    `motion` loss in units of the best that needs no model (zero or interpolation; below 1 the
    model has learned something), each as `interval`; `verdicts` against the reference; and the
    cost: `parameters`, `gmacs` (classifier), `pretrain_gmacs` of one clip, steps, and mean
    `seconds` of one seed.
    """

    rows: list[Row]
    provenance: dict[str, Any]

    def __str__(self) -> str:
        head = ("variant", "UAR", "appearance", "motion", "GMACs", "params", "seconds")
        lines = [head, *(_cells(row) for row in self.rows)]
        return "\n".join(
            "".join(f"{cell:{form}}" for cell, form in zip(line, COLUMNS, strict=True))
            for line in lines
        )

    def compare(self) -> str:
        """What the intervals show against the reference, a line for each other variant."""
        return "\n".join(
            f"{row['variant']}: "
            + "; ".join(f"{name} {words}" for name, words in row["verdicts"].items())
            for row in self.rows[1:]
        )


def ablate(
    config: AblationConfig,
    *,
    own: Mapping[str, PretrainConfig] | None = None,
    output: Path | None = None,
    profile: str = "none",
) -> Ablation:
    """Pre-train, fine-tune and judge every variant with every seed.

    own: further variants by name, such as `config.pretrain` with a registered encoder or target.

    Runs lie in runs/ by the hash of their configuration: what has run before is loaded.
    """
    known = variants(config.pretrain)
    if unknown := set(config.variants) - known.keys():
        raise ValueError(f"variants={sorted(unknown)} are not known; known: {', '.join(known)}")
    chosen = {name: known[name] for name in config.variants} | dict(own or {})
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for seed in config.seeds:  # outermost: the variants of one seed share their clips
        for name, start in chosen.items():
            run = finetune(recipe(config, start, seed), output=output, profile=profile)
            results[name].append(run.result)
    rows = [
        {"variant": name, **scores(found), **cost(recipe(config, chosen[name], 0), found)}
        for name, found in results.items()
    ]
    rows = [{**row, "verdicts": verdicts(row, rows[0])} for row in rows]
    seconds = round(len(config.seeds) * sum(row["seconds"] for row in rows), 1)
    source = results[config.variants[0]][0]["provenance"]
    seeds = ", ".join(map(str, config.seeds))
    return Ablation(rows, {**source, "seed": seeds, "seconds": seconds})


def recipe(config: AblationConfig, start: PretrainConfig | None, seed: int) -> FinetuneConfig:
    """The fine-tuning of one variant and seed; its `init` is the pre-training."""
    model = config.pretrain.model if start is None else start.model
    start = None if start is None else replace(start, seed=seed)
    return replace(config.finetune, model=model, init=start, seed=seed)


def scores(results: Sequence[dict[str, Any]]) -> dict[str, Interval | None]:
    """Scores over seeds; losses are None without pre-training."""
    found: dict[str, Interval | None] = {
        name: interval([r[name] for r in results]) for name in ("uar", "war")
    }
    for kind in ("appearance", "motion"):
        runs = [r["pretraining"] for r in results if r["pretraining"]]
        runs = [r for r in runs if best_without_model(r, kind)]  # 0: it is not predicted
        values = [r["held_out"][kind] / best_without_model(r, kind) for r in runs]
        found[kind] = interval(values) if values else None
    return found


def best_without_model(pretraining: dict[str, Any], kind: str) -> float:
    """The smaller held-out loss of predicting zero and of interpolating the visible cubes."""
    return min(losses[kind] for losses in pretraining["baselines"].values())


def interval(values: Sequence[float]) -> Interval:
    """Mean and half the width of its 95 % interval (Student's t; None for one value)."""
    degrees = len(values) - 1
    if not 0 <= degrees <= len(T_QUANTILES):
        raise ValueError(f"values hold {len(values)} entries; use 1 to {len(T_QUANTILES) + 1}")
    half = T_QUANTILES[degrees - 1] * stdev(values) / len(values) ** 0.5 if degrees else None
    return {"values": list(values), "mean": mean(values), "half": half}


def verdicts(row: Row, reference: Row) -> dict[str, str]:
    """For each score that both rows have: what their intervals show."""
    return {
        name: verdict(row[name], reference[name])
        for name in SCORES
        if row["variant"] != reference["variant"] and row[name] and reference[name]
    }


def verdict(ours: Interval, reference: Interval) -> str:
    """ "higher" or "lower" where the intervals are apart, else that no difference is shown."""
    if ours["half"] is None or reference["half"] is None:
        return NO_DIFFERENCE
    apart = ours["mean"] - reference["mean"]
    if abs(apart) <= ours["half"] + reference["half"]:
        return NO_DIFFERENCE
    return "higher" if apart > 0 else "lower"


def cost(config: FinetuneConfig, results: Sequence[dict[str, Any]]) -> Row:
    """Exact size and multiply-adds of a variant, its steps, and mean seconds of a seed."""
    start = config.init
    before = [r["pretraining"]["seconds"] if r["pretraining"] else 0.0 for r in results]
    return {
        "parameters": results[0]["parameters"],
        "gmacs": _gmacs(config.model),
        "pretrain_gmacs": start and _gmacs(start.model, start),
        "pretrain_steps": start.optim.steps if start else 0,
        "finetune_steps": config.optim.steps,
        "seconds": mean(r["seconds"] + b for r, b in zip(results, before, strict=True)),
    }


def _gmacs(model: ModelConfig, start: PretrainConfig | None = None) -> float:
    """Of one clip: by closed formula, or counted where an own encoder or target has none."""
    task, ratio = ("pretrain", start.mask_ratio[0]) if start else ("classify", 0.9)
    if model.extension or (start and start.target.extension):
        target = start.target if start else None
        counted = model_for_counting(model, task, mask_ratio=ratio, target=target)
        return sum(part.macs for part in count_with_torch(*counted).values()) / 1e9
    return sum(macs(model, task, mask_ratio=ratio).values()) / 1e9


def _cells(row: Row) -> tuple[str, ...]:
    uar, *losses = (row[name] for name in ("uar", "appearance", "motion"))
    return (
        row["variant"],
        _cell(uar, 100.0, "%"),
        *(_cell(loss) for loss in losses),
        f"{row['gmacs']:.4f}",
        f"{row['parameters'] / 1e6:.2f}M",
        f"{row['seconds']:.1f}",
    )


def _cell(found: Interval | None, scale: float = 1.0, unit: str = "") -> str:
    if found is None:
        return "-"
    digits = 1 if unit else 3
    half = "" if found["half"] is None else f" +- {scale * found['half']:.{digits}f}"
    return f"{scale * found['mean']:.{digits}f}{half}{unit}"
