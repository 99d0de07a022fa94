"""Project the hours of a pre-training on 1 to many GPUs, and name the bottleneck. Without torch.

The time of a step has five parts, each computed as if it were alone:

    GPU        6 x multiply-adds of a clip x clips / (peak x utilisation), and AdamW's 28 bytes
               per parameter (reads value, gradient, two moments; writes all but the gradient)
    issue      Python and PyTorch launch a step's operators, for any number of clips
    gradients  ring all-reduce, 2 (n - 1) / n x 4 bytes x parameters; "exposed" is what does not
               overlap with the backward pass (two thirds of computing or launching)
    loader     clips / (cores x clips per second and core)
    storage    clips x bytes per clip / bandwidth

A step takes the longer of GPU and issue, plus the exposed communication, or as long as its clips
take to arrive. Every input states its origin; `LIMITS` says what is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

from maedfer_lab import text
from maedfer_lab.config import PretrainConfig, base, choose
from maedfer_lab.cost.formula import parameters, total_macs

Origin = Literal["measured", "counted", "quoted", "assumed", "given"]
CardName = Literal["A100", "H100", "H200", "L40S", "RTX4090"]
Form = Literal["mp4", "shards"]

BACKWARD = 3  # forward and backward together cost three times the forward pass
FLOAT32 = 4  # bytes
ADAMW_BYTES = 7 * FLOAT32  # of memory traffic per parameter
HEADING = (
    "GPUs", "batch", "GPU ms", "issue ms", "gradients ms", "exposed ms", "loader ms", "storage ms",
    "hours", "GPU-hours", "bottleneck", "cores needed", "GB/s read",
)  # fmt: skip
LIMITS = (
    "Utilisation is the largest unknown. `maedfer bench --json figures/bench_gpu.json` on a card "
    "of that kind, or `--utilisation`, replaces the assumption.",
    "Left out: start-up, a pass over the held-out clips per epoch, checkpoints (1.1 GB every "
    "save_every steps), stragglers, failures, and waiting in a queue.",
    "All reads are assumed to come from storage. A set that fits into the machines' memory is read "
    "from there after the first epoch.",
    "A batch larger than the recipe's 160 sees the same clips in fewer steps at a proportionally "
    "higher learning rate: the time is projected, but that training has not been tried.",
    "Only two processes on a CPU were tried (`maedfer estimate` under torchrun measures them "
    "together); no command for several GPUs or machines has been run.",
)


class Input(NamedTuple):
    """A number with its unit, origin and source."""

    value: float
    unit: str
    origin: Origin
    source: str


class Card(NamedTuple):
    """A GPU's data sheet: dense bf16 TFLOP/s, GB/s of memory, GB/s to its neighbours, each way."""

    peak: float
    memory: float
    link: float
    sheet: str  # whose it is, and the page that repeats it


CARDS: dict[str, Card] = {
    "A100": Card(312, 2039, 300, "NVIDIA A100 80GB SXM (by glennklockwood.com)"),
    "H100": Card(989, 3350, 450, "NVIDIA H100 SXM (by glennklockwood.com)"),
    "H200": Card(989, 4800, 450, "NVIDIA H200 SXM (by itkb.uw.cz)"),
    "L40S": Card(362, 864, 32, "NVIDIA L40S, PCIe 4.0 x16 (by mullet.se)"),
    "RTX4090": Card(165, 1008, 32, "NVIDIA RTX 4090, PCIe 4.0 x16 (by waredb.com)"),
}
CORE = "one core of an AMD EPYC (family 26), alone, medians"
# CPU seconds of one worker process: decoded, cropped, collated by eight and handed over.
READ: dict[str, tuple[Input, Input]] = {
    "mp4": (Input(43, "clips/s", "measured", f"{CORE}: H.264 of 224 x 224, 195 frames"),
            Input(0.25, "MB", "assumed", "a whole video of 7.8 s at 250 kbit/s")),
    "shards": (
        Input(226, "clips/s", "measured", f"{CORE}: JPEGs of 224 x 224 at quality 95, simplejpeg; "
              "to find a clip among 1,092,000 is 0.04 ms of it"),
        Input(0.284, "MB", "measured", "16 JPEGs of 17.7 KB, mean of 2,340 frames of 12 people"),
    ),
}  # fmt: skip
ISSUE = Input(0.039, "s", "measured", f"{CORE}: a bf16 step of this depth and 29k parameters")


ASSUMED = {
    "utilisation": (0.2, "share", "what transformers of this size reach in eager PyTorch"),
    "network": (25, "GB/s", "200 Gbit/s for each GPU"),
    "reached": (0.7, "share", "achieved / data-sheet bandwidth of large transfers"),
    "overlap": (0.9, "share", "DDP sends buckets of 25 MB; the last overlaps with nothing"),
    "gpus_per_machine": (8, "GPUs", "the usual server"),
    "cores_per_gpu": (8, "cores", "`--workers 8`, as in docs/launching.md"),
    "storage": (2, "GB/s", "one NVMe disk, or a shared file system, for all"),
}
ORDER = ("peak utilisation memory link network reached overlap issue gpus_per_machine "
         "cores_per_gpu clips_per_core mb_per_clip storage")  # fmt: skip
Inputs = dict[str, Input]  # what a projection rests on, by name: see `usual_inputs`


def usual_inputs(card: CardName = "A100", form: Form = "shards") -> Inputs:
    """The card's data sheet, our measurements of reading `form`, and assumptions for the rest.

    utilisation: of the card's peak. reached: achieved / data-sheet bandwidth. network: of each
    GPU to other machines, each way. overlap: share of the backward pass that overlaps with the
    all-reduce. issue: to launch one step's operators. storage: of all processes together.
    """
    sheet = CARDS[choose("card", card, get_args(CardName))]
    clips_per_core, mb_per_clip = READ[choose("form", form, get_args(Form))]
    found = {name: Input(value, unit, "assumed", source)
             for name, (value, unit, source) in ASSUMED.items()}  # fmt: skip
    found |= {"issue": ISSUE, "clips_per_core": clips_per_core, "mb_per_clip": mb_per_clip}
    for name, unit in (("peak", "TFLOP/s"), ("memory", "GB/s"), ("link", "GB/s")):
        found[name] = Input(getattr(sheet, name), unit, "quoted", f"data sheet: {sheet.sheet}")
    return {name: found[name] for name in ORDER.split()}


def replaced(inputs: Inputs, **values: float | None) -> Inputs:
    """The inputs with these values; None keeps what is there."""
    return inputs | {
        name: inputs[name]._replace(value=value, origin="given", source="by you")
        for name, value in values.items()
        if value is not None
    }


def checked(inputs: Inputs) -> Inputs:
    """The inputs; ValueError for a value that is none, also of what was measured."""
    for name, one in inputs.items():
        lowest = 0 if name == "overlap" else math.ulp(0)
        if not lowest <= one.value <= (1 if one.unit == "share" else math.inf):
            rule = "a share in (0, 1], such as 0.5" if one.unit == "share" else "positive"
            raise ValueError(f"{name}={one.value:g} must be {rule}")
    return inputs


STEP = re.compile(r"LGI-B pre-training step, 160 clips, (issued|compiled|captured)")
FEED = re.compile(r"feed of batches of \d+, (\d+) workers, jpeg shards")


def measured_inputs(inputs: Inputs, card: CardName, bench: dict[str, Any]) -> Inputs:
    """The inputs with what the JSON of `maedfer bench` holds of such a card, marked as measured.

    Of another card nothing is taken. The utilisation is that of the data sheet's peak.
    """
    source = bench["provenance"]
    if card not in source["device"].replace(" ", "") or source["profile"] == "smoke":
        return inputs
    seconds = {row["name"]: row["ours"]["median"] for row in bench["rows"] if row["ours"]}
    steps = [name for name in seconds if STEP.fullmatch(name)]
    changes: dict[str, Input] = {}
    where = f"{source['device']}, torch {source['versions']['torch']}, commit {source['commit']}"
    if steps:
        best = min(steps, key=seconds.__getitem__)
        config = base()
        forward = total_macs(config.model, "pretrain", mask_ratio=config.mask_ratio[0])
        reached = 2 * BACKWARD * forward / seconds[best] / (1e12 * inputs["peak"].value)
        changes["utilisation"] = Input(round(reached, 3), "share", "measured", f"{where}: {best}")
        issue = seconds[f"{best}: issued by the host"]
        changes["issue"] = Input(round(issue, 4), "s", "measured", f"{where}: {best}")
    for name in seconds:
        if found := FEED.fullmatch(name):
            speed = round(1 / seconds[name] / int(found[1]), 1)
            changes["clips_per_core"] = Input(speed, "clips/s", "measured", f"{where}: {name}")
    return checked(inputs | changes)


class Step(NamedTuple):
    """One number of GPUs: the parts of a step in seconds, and results.

    gradients_s: the whole all-reduce; exposed_s: the part of it that overlaps with nothing.
    hours: of the whole run. bottleneck: the longest part. cores: CPU cores in all that read the
    clips in time. read: GB/s from storage.
    """

    gpus: int
    batch_size: int
    steps: int
    gpu_s: float
    issue_s: float
    gradients_s: float
    exposed_s: float
    loader_s: float
    storage_s: float
    hours: float
    bottleneck: str
    cores: int
    read: float


@dataclass(frozen=True)
class Plan:
    """Cost of the whole pre-training by number of GPUs; `print` shows it as a table."""

    name: str
    clips: int
    flops_per_clip: float
    parameters: int
    batch_size: int
    inputs: Inputs
    rows: tuple[Step, ...] = ()

    @property
    def head(self) -> str:
        """The counts."""
        return (
            f"{self.name}: {self.clips / 1e6:.4g}M clips in batches of {self.batch_size}; "
            f"{self.flops_per_clip / 1e9:.1f} GFLOP a clip, forward and backward; "
            f"{self.parameters / 1e6:.1f}M parameters (all counted)"
        )

    @property
    def cells(self) -> list[list[str]]:
        """The table, heading first."""
        table = [list[str](HEADING)]
        for row in self.rows:
            changed = "*" * (row.batch_size != self.batch_size)
            table.append([
                f"{row.gpus}", f"{row.batch_size:,}{changed}",
                *(f"{1e3 * seconds:.3g}" for seconds in row[3:9]),
                f"{row.hours:.3g}", f"{row.hours * row.gpus:.3g}", row.bottleneck, f"{row.cores:,}",
                f"{row.read:.2g}",
            ])  # fmt: skip
        return table

    def __str__(self) -> str:
        lines = [self.head, text.table(self.cells, left=())]
        if any(row.batch_size != self.batch_size for row in self.rows):
            lines.append(f"* not the recipe's batch of {self.batch_size}: see the limits")
        rows = [[f"  {name.replace('_', ' ')}", f"{one.value:g}", *one[1:]]
                for name, one in self.inputs.items()]  # fmt: skip
        lines += ["inputs and their origin:", text.table(rows, left=(0, 2, 3, 4)), "limits:"]
        return "\n".join([
            *lines, *(f"  {limit}" for limit in LIMITS),
            "Details: docs/scaling.md. How to start it: docs/launching.md.",
        ])  # fmt: skip


def plan(
    config: PretrainConfig, gpus: Sequence[int] = (1, 4, 8, 64), inputs: Inputs | None = None, *,
    clips_per_gpu: int | None = None,
) -> Plan:  # fmt: skip
    """The whole run of `config` on each number of GPUs.

    The recipe's batch is split among the GPUs, rounded up to a multiple of them, as training
    requires; with `clips_per_gpu` it grows with them. The number of clips stays the same.
    """
    inputs = checked(inputs or usual_inputs())
    if not gpus or min(gpus) < 1 or (clips_per_gpu is not None and clips_per_gpu < 1):
        raise ValueError(
            f"gpus={tuple(gpus)} and clips_per_gpu={clips_per_gpu} must be at least 1 each, such "
            "as 1 4 8 64 and 20"
        )
    model, batch = config.model, config.optim.batch_size
    forward = [total_macs(model, "pretrain", mask_ratio=ratio) for ratio in config.mask_ratio]
    flops, number = 2 * BACKWARD * sum(forward) / len(forward), parameters(model, "pretrain")
    found = Plan(config.name, config.optim.last_step * batch, flops, sum(number.values()), batch,
                 inputs)  # fmt: skip
    sizes = [n * (clips_per_gpu or math.ceil(batch / n)) for n in gpus]
    rows = tuple(_step(found, n, size) for n, size in zip(gpus, sizes, strict=True))
    return replace(found, rows=rows)


def _step(whole: Plan, gpus: int, batch: int) -> Step:
    value = {name: one.value for name, one in whole.inputs.items()}
    compute = batch / gpus * whole.flops_per_clip / (1e12 * value["peak"] * value["utilisation"])
    optimiser = ADAMW_BYTES * whole.parameters / (1e9 * value["memory"] * value["reached"])
    sent = 2 * (gpus - 1) / gpus * FLOAT32 * whole.parameters
    wire = value["link"] if gpus <= value["gpus_per_machine"] else value["network"]
    gradients = sent / (1e9 * wire * value["reached"])
    backward = max(compute, value["issue"]) * (BACKWARD - 1) / BACKWARD
    exposed = max(0.0, gradients - value["overlap"] * backward)
    loader = batch / (gpus * value["cores_per_gpu"] * value["clips_per_core"])
    storage = batch * value["mb_per_clip"] / (1e3 * value["storage"])
    parts = {"GPU": compute + optimiser, "issue": value["issue"]}
    fed = max(parts.values()) + exposed  # a step whose clips are there in time
    seconds, steps = max(fed, loader, storage), math.ceil(whole.clips / batch)
    parts |= {"gradients": gradients} if exposed else {}
    if fed < seconds:
        parts = {"storage": storage, "loader": loader}
    return Step(
        gpus, batch, steps, compute + optimiser, value["issue"], gradients, exposed, loader,
        storage, steps * seconds / 3600, max(parts, key=parts.__getitem__),
        math.ceil(batch / max(fed, storage) / value["clips_per_core"]),
        batch * value["mb_per_clip"] / seconds / 1e3,
    )  # fmt: skip
