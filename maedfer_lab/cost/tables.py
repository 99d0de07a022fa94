"""The table of counts: each model by closed formula, fvcore and PyTorch (`maedfer flops`).

All three count the published products; on a CPU `fast` runs a ninth fewer of LGI-Former's.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from json import dumps
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from maedfer_lab import text
from maedfer_lab.config import ModelConfig, Shape3, Size, base, profile, sized
from maedfer_lab.cost.counters import count_with_fvcore, count_with_torch, model_for_counting
from maedfer_lab.cost.formula import Task, Work, macs, macs_of, parameters, token_grid
from maedfer_lab.files import provenance, write_aside
from maedfer_lab.method.grid import Grid, region_shapes

NAMED_REGIONS: tuple[Shape3, ...] = (
    (1, 5, 10), (2, 2, 10), (2, 5, 5), (2, 5, 10), (4, 5, 10), (4, 10, 10), (8, 10, 10)
)  # fmt: skip
TOTALS = ("macs", "macs_fvcore", "macs_torch")
ONCE = ("embedding", "norm", "head")  # of a classifier: what its blocks do not repeat


@dataclass(frozen=True)
class Count:
    """One model counted three ways, in multiply-adds per clip (a GFLOP is half a GMAC).

    formula, fvcore, torch: by stage; fvcore without what it adds for LayerNorm.
    layer_norm: what fvcore adds for LayerNorm (the paper's numbers hold it).
    skipped: by stage, what the official code computes for nothing and our models leave out; empty
        for a count of the official work.
    """

    name: str
    task: Task
    config: ModelConfig
    as_published: bool
    parameters: int
    formula: dict[str, int]
    fvcore: dict[str, int]
    torch: dict[str, int]
    layer_norm: int
    skipped: dict[str, int]

    @property
    def macs(self) -> int:
        """Multiply-adds by the formula, without LayerNorm."""
        return sum(self.formula.values())

    @property
    def totals(self) -> tuple[int, int, int]:
        """Multiply-adds by formula, fvcore and PyTorch."""
        return self.macs, sum(self.fvcore.values()), sum(self.torch.values())

    @property
    def disagreement(self) -> float:
        """Largest relative difference of a counter's total from the formula's."""
        return max(abs(total / self.macs - 1) for total in self.totals)

    def to_json(self) -> dict[str, Any]:
        """All numbers, with totals."""
        totals = dict(zip(TOTALS, self.totals, strict=True))
        norm = self.totals[1] + self.layer_norm
        return {**asdict(self), **totals, "macs_with_layer_norm": norm, "flops": 2 * self.macs,
                "disagreement": self.disagreement}  # fmt: skip


def count(
    name: str, config: ModelConfig, task: Task = "classify", *, as_published: bool = True,
    by_one_block: bool = False,
) -> Count:  # fmt: skip
    """Count a model three ways; 7 classes, 90 % masking.

    as_published: the official code's work, or ours with its dead work skipped (`formula.work`).
    by_one_block: count a classifier of one block and multiply, for long lists: as published,
        all blocks do the same work.
    """
    if by_one_block and (task != "classify" or not as_published):
        raise ValueError(
            f"by_one_block=True fits task='classify' as published, not task={task!r} with "
            f"as_published={as_published}; use by_one_block=False"
        )
    times = config.depth if by_one_block else 1
    counted = replace(config, depth=config.depth // times)
    model, clip = model_for_counting(counted, task, as_published=as_published)
    by_fvcore, by_torch = (
        {s: part if s in ONCE else Work(*(times * n for n in part)) for s, part in found.items()}
        for found in (count_with_fvcore(model, clip), count_with_torch(model, clip))
    )
    own, published = (macs(config, task, as_published=how) for how in (as_published, True))
    return Count(
        name, task, config, as_published, sum(parameters(config, task).values()), own,
        macs_of(by_fvcore), macs_of(by_torch), sum(part.layer_norm for part in by_fvcore.values()),
        {s: n - own.get(s, 0) for s, n in published.items() if n != own.get(s, 0)},
    )  # fmt: skip


def count_models(size: Size = "base") -> list[Count]:
    """The paper's two models, or of another size, with variants: classifiers, then pre-training."""
    lgi, vit = (sized(base(encoder).model, size) for encoder in ("lgi", "vit"))
    same_shape = replace(vit, width=lgi.width, depth=lgi.depth, num_heads=lgi.num_heads)
    letter = size[0].upper()
    named = {
        f"LGI-{letter}": lgi, f"ViT-{letter}": vit, f"ViT {lgi.width} x {lgi.depth}": same_shape,
        f"LGI-{letter} without stage 2": replace(lgi, inter=False),
        f"LGI-{letter} without stage 3": replace(lgi, interact="none"),
        f"LGI-{letter} without 2 and 3": replace(lgi, inter=False, interact="none"),
    }  # fmt: skip
    plans: list[tuple[str, ModelConfig, Task, bool]] = [
        *((name, config, "classify", True) for name, config in named.items()),
        (f"LGI-{letter}, ours", lgi, "classify", False),
        *((f"{name}-{letter}{ours}", config, "pretrain", not ours)
          for name, config in (("LGI", lgi), ("ViT", vit)) for ours in ("", ", ours")),
    ]  # fmt: skip
    return [count(name, config, task, as_published=published)
            for name, config, task, published in tqdm(plans, "count", leave=False)]  # fmt: skip


def count_regions(regions: Sequence[Shape3] | None = None, size: Size = "base") -> list[Count]:
    """LGI's classifier for each region, by default for every shape that divides the grid."""
    lgi = sized(base().model, size)
    shapes = regions or region_shapes(Grid.of_clip(16, 160, 160, lgi.tubelet))
    return [count(" x ".join(map(str, shape)), replace(lgi, region=shape), by_one_block=True)
            for shape in tqdm(shapes, "count", leave=False)]  # fmt: skip


def saving(lgi: Count, vit: Count) -> float:
    """Share of the second model's multiply-adds that the first one saves: 0.385 in the paper."""
    return 1 - lgi.macs / vit.macs


def to_data(models: Sequence[Count], regions: Sequence[Count]) -> dict[str, Any]:
    """All counts (those of `count_models` first) as figure 07_flops is drawn from them."""
    lgi, vit, same_shape = models[:3]
    return {
        "unit": "multiply-adds per clip of 16 x 160 x 160; flops are twice as many",
        "saving": saving(lgi, vit),
        "saving_same_shape": saving(lgi, same_shape),
        "same_shape": same_shape.macs,
        "region": lgi.config.region,
        "named_regions": NAMED_REGIONS,
        "models": [found.to_json() for found in models],
        "regions": [{"region": found.config.region, "parameters": found.parameters,
                     **dict(zip(TOTALS, found.totals, strict=True))} for found in regions],
    }  # fmt: skip


def flops_command(*, size: Size = "base", json: Path | None = None) -> str:
    """Count LGI-Former and ViT by closed formula, fvcore and PyTorch; half a minute.

    size: of both models; base is the paper's.
    json: a file to write all numbers to, by model and stage.
    """
    models, regions = count_models(size), count_regions(size=size)
    if json is not None:
        source = provenance(profile=profile().name, seed=0, device="meta")
        content = {"provenance": source, **to_data(models, regions)}
        write_aside(json, (dumps(content, indent=1) + "\n").encode())
    return "\n\n".join([table(models), stage_table(models[:3]), region_table(regions)])


def table(found: Sequence[Count]) -> str:
    """One line per model, in GMACs (10^9 multiply-adds per clip)."""
    heads = "GMACs per clip,task,params,formula,fvcore,PyTorch,+ LayerNorm,GFLOPs,against ViT"
    rows = [list[str](heads.split(","))]
    for row in found:
        vit = next((r for r in found if r.name[:4] == "ViT-" and r.task == row.task), row)
        gmacs = (*row.totals, row.totals[1] + row.layer_norm, 2 * row.macs)
        numbers = [f"{row.parameters / 1e6:.1f}M", *(f"{n / 1e9:.2f}" for n in gmacs)]
        rows.append([row.name, row.task, *numbers, f"{row.macs / vit.macs - 1:+.1%}"])
    worst = max(row.disagreement for row in found)
    lines = [text.table(rows, (0, 1))]
    lines.append(f"The three counts of each line differ by at most {worst:.4%}.")
    for row in found:
        if row.skipped:
            parts = ", ".join(f"{name} {n / 1e9:.2f}" for name, n in row.skipped.items())
            lines.append(f"{row.name}, {row.task}: skips {parts} GMACs that nothing reads.")
    return "\n".join(lines)


def stage_table(found: Sequence[Count]) -> str:
    """One line per stage, one column per model."""
    rows = [["GMACs by stage", *(row.name for row in found)]]
    for stage in dict.fromkeys(stage for row in found for stage in row.formula):
        values = [row.formula.get(stage) for row in found]
        rows.append([stage, *("" if n is None else f"{n / 1e9:.3f}" for n in values)])
    return text.table(rows)


def region_table(found: Sequence[Count]) -> str:
    """One line per number of tokens in a region, cheapest first; the usual shapes are marked."""
    by_size = defaultdict[int, list[Count]](list)
    for row in sorted(found, key=lambda row: row.macs):
        by_size[math.prod(row.config.region)].append(row)
    lines = [["tokens N", "regions M", "GMACs", "regions (t x h x w)"]]
    for size, rows in by_size.items():
        shapes = [row.name + " *" * (row.config.region in NAMED_REGIONS) for row in rows]
        regions = math.prod(token_grid(rows[0].config)) // size
        lines.append([str(size), str(regions), f"{rows[0].macs / 1e9:.2f}", ", ".join(shapes)])
    return text.table(lines, (3,))
