"""What a plan rests on: data sheets, measurements of this project, and what had to be assumed.

Measured again, the numbers of `READ`, `ISSUE` and `PREPARE_S` change here, and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple, get_args

from maedfer_lab.config import choose

Origin = Literal["measured", "counted", "quoted", "assumed", "given"]
CardName = Literal["A100", "H100", "H200", "L40S", "RTX4090"]
Form = Literal["mp4", "shards"]


class Card(NamedTuple):
    """A GPU's data sheet: dense bf16 TFLOP/s, GB/s of memory, GB/s to its neighbours, each way.

    sheet: whose it is, and the page that repeats it where the sheet itself could not be opened.
    """

    tflops: float
    memory: float
    link: float
    sheet: str


CARDS: dict[str, Card] = {
    "A100": Card(312, 2039, 300, "NVIDIA A100 80GB SXM (by glennklockwood.com)"),
    "H100": Card(989, 3350, 450, "NVIDIA H100 SXM (by glennklockwood.com)"),
    "H200": Card(989, 4800, 450, "NVIDIA H200 SXM (by itkb.uw.cz)"),
    "L40S": Card(362, 864, 32, "NVIDIA L40S, PCIe 4.0 x16 (by mullet.se)"),
    "RTX4090": Card(165, 1008, 32, "NVIDIA RTX 4090, PCIe 4.0 x16 (by waredb.com)"),
}
CORE = "one core of an AMD EPYC (family 26), alone, medians"


@dataclass(frozen=True)
class Input:
    """A number with its unit and where it comes from."""

    value: float
    unit: str
    origin: Origin
    source: str


# CPU seconds of one worker process: decoded, cropped, collated by eight and handed over.
READ: dict[str, tuple[Input, Input]] = {
    "mp4": (
        Input(43, "clips/s", "measured", f"{CORE}: H.264 of 224 x 224, 195 frames"),
        Input(0.25, "MB", "assumed", "a whole video of 7.8 s at 250 kbit/s"),
    ),
    "shards": (
        Input(226, "clips/s", "measured", f"{CORE}: JPEGs of 224 x 224 at quality 95, simplejpeg"),
        Input(0.284, "MB", "measured", "16 JPEGs of 17.7 KB, mean of 2,340 frames of 12 people"),
    ),
}
ISSUE = Input(0.039, "s", "measured", f"{CORE}: a bf16 step of this depth and 29k parameters")
PREPARE_S = 0.083  # of a core: a video of 195 frames into JPEGs of 224 x 224, measured likewise


@dataclass(frozen=True)
class Inputs:
    """What the plan rests on; `usual_inputs` fills it, `given` replaces numbers.

    peak, memory, link: of the card. utilisation: of its peak, while it computes.
    reached: share of a data sheet's bandwidth that is reached.
    network: of each GPU to other machines, each way. overlap: share of the backward pass beside
    which gradients travel. issue: to issue one step's operators.
    clips_per_core, mb_per_clip: of reading, from storage. storage: of all processes together.
    """

    peak: Input
    utilisation: Input
    memory: Input
    link: Input
    network: Input
    reached: Input
    overlap: Input
    issue: Input
    gpus_per_machine: Input
    cores_per_gpu: Input
    clips_per_core: Input
    mb_per_clip: Input
    storage: Input

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value, share = getattr(self, name).value, getattr(self, name).unit == "share"
            lowest = 0 if name == "overlap" else math.ulp(0)
            if not lowest <= value <= (1 if share else math.inf):
                rule = "a share in (0, 1], such as 0.5" if share else "positive"
                raise ValueError(f"{name}={value:g} must be {rule}")

    def given(self, **values: float | None) -> Inputs:
        """The same with these values; None keeps what is there."""
        changes = {
            name: replace(getattr(self, name), value=value, origin="given", source="by you")
            for name, value in values.items()
            if value is not None
        }
        return replace(self, **changes)

    def __str__(self) -> str:
        rows = [(field.name.replace("_", " "), getattr(self, field.name)) for field in fields(self)]
        return "\n".join(
            f"  {name:<17}{one.value:>8g} {one.unit:<9}{one.origin:<9} {one.source}"
            for name, one in rows
        )


def usual_inputs(card: CardName = "A100", form: Form = "shards") -> Inputs:
    """The card's data sheet, our measurements of reading `form`, and assumptions for the rest."""
    sheet = CARDS[choose("card", card, get_args(CardName))]
    reading = READ[choose("form", form, get_args(Form))]

    def quoted(value: float, unit: str) -> Input:
        return Input(value, unit, "quoted", f"data sheet: {sheet.sheet}")

    def assumed(value: float, unit: str, source: str) -> Input:
        return Input(value, unit, "assumed", source)

    return Inputs(
        peak=quoted(sheet.tflops, "TFLOP/s"),
        utilisation=assumed(0.2, "share", "what transformers of this size reach in eager PyTorch"),
        memory=quoted(sheet.memory, "GB/s"),
        link=quoted(sheet.link, "GB/s"),
        network=assumed(25, "GB/s", "200 Gbit/s for each GPU"),
        reached=assumed(0.7, "share", "of a bandwidth on paper, by large transfers"),
        overlap=assumed(0.9, "share", "DDP sends buckets of 25 MB; the last has nothing beside it"),
        issue=ISSUE,
        gpus_per_machine=assumed(8, "GPUs", "the usual server"),
        cores_per_gpu=assumed(8, "cores", "`--workers 8`, as in docs/launching.md"),
        clips_per_core=reading[0],
        mb_per_clip=reading[1],
        storage=assumed(2, "GB/s", "one NVMe disk, or a shared file system, for all"),
    )
