"""The figures that are to be reached, each a quotient of medians of the table's rows."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from maedfer_lab.bench.report import Aim, Findings, Side

Place = tuple[str, Side]


class Target(NamedTuple):
    """`above` over `below` (products of medians) is to be `sense` `bound`."""

    name: str
    sense: Literal["at most", "at least", "below"]
    bound: float
    above: tuple[Place, ...]
    below: tuple[Place, ...] = ()
    unit: str = "x"


LGI, VIT = "LGI-B forward, float32", "ViT-B forward, float32"
TARGETS = (
    Target("LGI-B forward over its floor, float32", "at most", 1.10,
           ((LGI, "ours"),), ((LGI, "floor"),)),
    Target("LGI-B forward over the same products by torch.mm, float32", "at most", 1.10,
           ((LGI, "ours"),), (("LGI-B products by torch.mm alone, float32", "ours"),)),
    Target("LGI-B forward, times faster than plain, float32", "at least", 1.08,
           ((LGI, "plain"),), ((LGI, "ours"),)),
    Target("LGI-B forward in bf16, times faster than plain float32", "at least", 1.9,
           ((LGI, "plain"),), (("LGI-B forward, bf16", "ours"),)),
    Target("LGI-B over ViT-B, forward at 16 frames", "at most", 0.60,
           ((LGI, "ours"),), ((VIT, "ours"),)),
    Target("the same at 32 frames, over that at 16", "below", 1.0,
           (("LGI-B forward, 32 frames", "ours"), (VIT, "ours")),
           (("ViT-B forward, 32 frames", "ours"), (LGI, "ours"))),
    Target("the same at 64 frames, over that at 32", "below", 1.0,
           (("LGI-B forward, 64 frames", "ours"), ("ViT-B forward, 32 frames", "ours")),
           (("ViT-B forward, 64 frames", "ours"), ("LGI-B forward, 32 frames", "ours"))),
    Target("pre-training clips from shards, times faster than plain from MP4", "at least", 10.0,
           (("pre-training clip, MP4", "plain"),), (("pre-training clip, shards", "ours"),)),
    Target("fine-tuning clips from shards, times faster than plain from JPEGs", "at least", 6.0,
           (("fine-tuning clip, JPEGs", "plain"),), (("fine-tuning clip, shards", "ours"),)),
    Target("evaluation, times faster than plain, float32", "at least", 2.1,
           (("evaluation, float32", "plain"),), (("evaluation, float32", "ours"),)),
    Target("evaluation in bf16, times faster than plain float32", "at least", 4.0,
           (("evaluation, float32", "plain"),), (("evaluation, bf16", "ours"),)),
    Target("data of an evaluation, times faster than plain", "at least", 4.0,
           (("data of an evaluation", "plain"),), (("data of an evaluation", "ours"),)),
    Target("import maedfer_lab, beyond torch", "below", 0.3,
           (("import maedfer_lab", "ours"),), unit="s"),
    Target("import models and training, beyond torch", "below", 0.3,
           (("import models and training", "ours"),), unit="s"),
)  # fmt: skip


def judge(found: Findings) -> list[Aim]:
    """The aims whose rows were measured."""
    aims = []
    for target in TARGETS:
        above, below = _product(found, target.above), _product(found, target.below)
        if not math.isnan(above / below):
            aims.append(Aim(target.name, target.sense, target.bound, above / below, target.unit))
    for name, share in (("pre-training step", 0.40), ("forward + backward", 0.50)):
        row = found.row(f"LGI-B {name}, bf16")
        if row is not None and row.utilisation is not None:
            text = f"LGI-B {name} in bf16, share of the measured peak"
            aims.append(Aim(text, "at least", share, row.utilisation, ""))
    return aims


def _product(found: Findings, places: tuple[Place, ...]) -> float:
    value = 1.0
    for name, side in places:
        row = found.row(name)
        value *= math.nan if row is None else row.median(side)
    return value
