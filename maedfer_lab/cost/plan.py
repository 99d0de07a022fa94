"""What a pre-training costs on other machines, from counts, measurements and data sheets.

Plain arithmetic, no torch. Of every step five things are timed, each as if it were alone:

    GPU        6 x multiply-adds of a clip x clips / (peak x utilisation), and AdamW's 28 bytes
               per parameter (reads value, gradient, two moments; writes all but the gradient)
    issue      Python and PyTorch hand a step's operators to the GPU, however few clips it has
    gradients  ring all-reduce, 2 (n - 1) / n x 4 bytes x parameters; what the backward pass
               (two thirds of computing or issuing) does not hide is waited for
    loader     clips / (cores x clips per second and core)
    storage    clips x bytes per clip / bandwidth

A step takes the longer of GPU and issue, with what is waited for, or as long as its clips take to
arrive. Every input says where it comes from; `LIMITS` says what is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from maedfer_lab.config import PretrainConfig
from maedfer_lab.cost.formula import macs, parameters
from maedfer_lab.cost.plan_inputs import Inputs, usual_inputs

BACKWARD = 3  # forward and backward together cost three times the forward pass
FLOAT32 = 4  # bytes
ADAMW_BYTES = 7 * FLOAT32  # of memory traffic per parameter
HEADING: Sequence[str] = (
    "GPUs,batch,GPU ms,issue ms,gradients ms,waited ms,loader ms,storage ms,hours,GPU-hours,binds,"
    "cores to feed,GB/s read"
).split(",")
LIMITS = (
    "Utilisation is the largest unknown: no GPU was at hand. `maedfer estimate base` on one of "
    "yours, and `--utilisation`, replace the assumption.",
    "Left out: start-up, a pass over the held-out clips per epoch, checkpoints (1.1 GB every "
    "save_every steps), stragglers, failures, and waiting in a queue.",
    "Reads are taken as they come from storage. A set that fits into the machines' memory is read "
    "from there after the first epoch.",
    "A batch larger than the recipe's 160 sees the same clips in fewer steps at a rate that grows "
    "with it: the time is planned, the result is another training, which nobody has tried.",
    "Only two processes on a CPU were tried (`maedfer estimate` under torchrun compares them with "
    "one); no line for several GPUs or machines has been run.",
)


@dataclass(frozen=True)
class Row:
    """One number of GPUs: seconds of a step by what takes them, and what follows.

    gradients_s: the whole all-reduce; waited_s: the part of it that nothing hides.
    """

    gpus: int
    batch_size: int
    steps: int
    gpu_s: float
    issue_s: float
    gradients_s: float
    waited_s: float
    loader_s: float
    storage_s: float
    cores: int  # that would feed it

    @property
    def fed_s(self) -> float:
        """A step whose clips are there in time."""
        return max(self.gpu_s, self.issue_s) + self.waited_s

    @property
    def step_s(self) -> float:
        """A step."""
        return max(self.fed_s, self.loader_s, self.storage_s)

    @property
    def binds(self) -> str:
        """What to improve first: the longest part of what takes longest."""
        if self.fed_s < self.step_s:
            return "loader" if self.loader_s > self.storage_s else "storage"
        parts = {"GPU": self.gpu_s, "issue": self.issue_s}
        if self.waited_s:
            parts["gradients"] = self.gradients_s
        return max(parts, key=parts.__getitem__)

    @property
    def hours(self) -> float:
        """Hours of the whole run."""
        return self.steps * self.step_s / 3600


@dataclass(frozen=True)
class Plan:
    """What the whole pre-training costs, by number of GPUs; `print` shows it as a table."""

    name: str
    clips: int
    flops_per_clip: float
    parameters: int
    batch_size: int
    inputs: Inputs
    rows: tuple[Row, ...]

    @property
    def head(self) -> str:
        """What is counted."""
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
            read = row.batch_size * self.inputs.mb_per_clip.value / row.step_s / 1e3
            times = (
                row.gpu_s,
                row.issue_s,
                row.gradients_s,
                row.waited_s,
                row.loader_s,
                row.storage_s,
            )
            table.append(
                [
                    f"{row.gpus}",
                    f"{row.batch_size:,}" + "*" * (row.batch_size != self.batch_size),
                    *(f"{1e3 * seconds:.3g}" for seconds in times),
                    f"{row.hours:.3g}",
                    f"{row.hours * row.gpus:.3g}",
                    row.binds,
                    f"{row.cores:,}",
                    f"{read:.2g}",
                ]
            )
        return table

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self.cells, strict=True)]
        lines = [self.head]
        for row in self.cells:
            cells = zip(row, widths, strict=True)
            lines.append("  ".join(f"{cell:>{width}}" for cell, width in cells))
        if any(row.batch_size != self.batch_size for row in self.rows):
            lines.append(f"* not the recipe's batch of {self.batch_size}: see the limits")
        lines += ["inputs, and where they come from:", str(self.inputs), "limits:"]
        lines += [f"  {text}" for text in LIMITS]
        return "\n".join(
            [*lines, "The whole plan: docs/scaling.md. To start it: docs/launching.md."]
        )


def plan(
    config: PretrainConfig,
    gpus: Sequence[int] = (1, 4, 8, 64),
    inputs: Inputs | None = None,
    *,
    clips_per_gpu: int | None = None,
) -> Plan:
    """The whole run of `config` on each number of GPUs.

    The recipe's batch is shared by the GPUs, rounded up to a multiple of them, which the training
    asks for; with `clips_per_gpu` it grows with them. The clips seen stay the same.
    """
    inputs = inputs or usual_inputs()
    if not gpus or min(gpus) < 1 or (clips_per_gpu is not None and clips_per_gpu < 1):
        raise ValueError(
            f"gpus={tuple(gpus)} and clips_per_gpu={clips_per_gpu} must be at least 1 each, such "
            "as 1 4 8 64 and 20"
        )
    model, batch = config.model, config.optim.batch_size
    forward = [sum(macs(model, "pretrain", mask_ratio=r).values()) for r in config.mask_ratio]
    found = Plan(
        name=config.name,
        clips=config.optim.last_step * batch,
        flops_per_clip=2 * BACKWARD * sum(forward) / len(forward),
        parameters=sum(parameters(model, "pretrain").values()),
        batch_size=batch,
        inputs=inputs,
        rows=(),
    )
    sizes = [n * (clips_per_gpu or math.ceil(batch / n)) for n in gpus]
    rows = tuple(_row(found, n, size) for n, size in zip(gpus, sizes, strict=True))
    return replace(found, rows=rows)


def _row(whole: Plan, gpus: int, batch: int) -> Row:
    value = {field.name: getattr(whole.inputs, field.name).value for field in fields(Inputs)}
    compute = batch / gpus * whole.flops_per_clip / (1e12 * value["peak"] * value["utilisation"])
    optimiser = ADAMW_BYTES * whole.parameters / (1e9 * value["memory"] * value["reached"])
    sent = 2 * (gpus - 1) / gpus * FLOAT32 * whole.parameters
    wire = value["link"] if gpus <= value["gpus_per_machine"] else value["network"]
    gradients = sent / (1e9 * wire * value["reached"])
    backward = max(compute, value["issue"]) * (BACKWARD - 1) / BACKWARD
    row = Row(
        gpus=gpus,
        batch_size=batch,
        steps=math.ceil(whole.clips / batch),
        gpu_s=compute + optimiser,
        issue_s=value["issue"],
        gradients_s=gradients,
        waited_s=max(0.0, gradients - value["overlap"] * backward),
        loader_s=batch / (gpus * value["cores_per_gpu"] * value["clips_per_core"]),
        storage_s=batch * value["mb_per_clip"] / (1e3 * value["storage"]),
        cores=0,
    )
    pace = max(row.fed_s, row.storage_s)
    return replace(row, cores=math.ceil(batch / pace / value["clips_per_core"]))
