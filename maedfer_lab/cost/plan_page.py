"""The page docs/scaling.md: a plan of the paper's pre-training, by the same code as the verb."""

from __future__ import annotations

from dataclasses import fields, replace

from maedfer_lab.config import base
from maedfer_lab.cost.formula import macs
from maedfer_lab.cost.plan import BACKWARD, LIMITS, Plan, plan
from maedfer_lab.cost.plan_inputs import CARDS, PREPARE_S, Inputs, usual_inputs

VIDEOS, HOURS = 1_092_009, 2360.2  # quoted: VoxCeleb2's dev part, as its users count it
FPS = 25
V100 = 125e12  # FLOP/s in fp16, quoted: data sheet of NVIDIA V100 SXM2, as other pages repeat it


def markdown() -> str:
    """The whole page."""
    config = base()
    shards = plan(config, inputs=usual_inputs("A100", "shards"))
    mp4 = plan(config, inputs=usual_inputs("A100", "mp4"))
    h100 = plan(config, inputs=usual_inputs("H100", "shards"))
    grown = plan(config, clips_per_gpu=40)
    quick = plan(config, inputs=usual_inputs("H100").given(utilisation=0.4, issue=0.005))
    gigabytes = HOURS * 3600 * FPS * shards.inputs.mb_per_clip.value / config.model.frames / 1e3
    parts = [
        "# Pre-training past one machine",
        f"{shards.head}. The tables are those of `maedfer plan`, and a test keeps this page equal "
        "to them. Every input can be replaced (`maedfer plan --help`); `--data FOLDER` measures "
        "how fast a core of your machine reads your clips. ms are of one step. How to start each "
        "line: [launching.md](launching.md).",
        "## A100, from prepared shards",
        _table(shards),
        _star(shards),
        "Up to four GPUs the GPUs bind. From eight on their share of the batch (20 clips) is "
        "computed sooner than Python can issue a step's operators. On eight machines of eight the "
        f"gradients ({shards.parameters * 4 / 1e6:.0f} MB, sent and received nearly twice) take "
        "longest of all: with the paper's batch, more than eight GPUs buy nothing.",
        "## A100, from MP4 files",
        _table(mp4),
        'Decoding binds with 8 cores a GPU: the column "cores to feed" says how many in all would '
        "do. Prepared once (`maedfer prepare voxceleb2 --framing whole --margin 1.4`: "
        f"{VIDEOS * PREPARE_S / 3600:.0f} core-hours, {gigabytes / 1e3:.1f} TB), clips are read "
        f"{_clips(shards) / _clips(mp4):.1f} times as fast.",
        "## H100, from prepared shards",
        _table(h100),
        f"Three times the peak: one GPU takes {_hours(h100, 0) / _hours(shards, 0):.0%} of the "
        "A100's hours, not a third, because reading binds; eight save nothing, because issuing "
        "binds with both.",
        "The same at 40 % utilisation and with operators issued in 5 ms (assumed: a captured CUDA "
        "graph, which is not built in):",
        _table(quick),
        "Then reading binds on one machine: the cores beside one GPU, the storage from four on.",
        "## A batch that grows with the GPUs: 40 clips each, A100",
        _table(grown),
        "Hours fall again, until the storage that all share binds; but see the limits.",
        "## Inputs, and where they come from",
        _inputs(shards.inputs),
        f"From MP4 files: {_clips(mp4):g} clips/s "
        f"({mp4.inputs.clips_per_core.source}), {mp4.inputs.mb_per_clip.value:g} MB "
        f"({mp4.inputs.mb_per_clip.origin}: {mp4.inputs.mb_per_clip.source}). "
        f"VoxCeleb2's dev part: {VIDEOS:,} videos, {HOURS:,} hours (quoted).",
        "Of the cards (`--card`), dense bf16 with float32 sums; links to one side. NVIDIA's own "
        "data sheets could not be opened: the values are those of the pages named, which repeat "
        "them.",
        _cards(),
        "One check from outside: VideoMAE's authors give 27 hours on 64 V100 for 800 epochs of "
        "Kinetics-400 with ViT-B (quoted: issue 5 of their repository; 240,000 clips an epoch "
        f"assumed). By the same counting that is {_videomae():.0%} of the cards' peak. How much "
        "of the time went into reading is not told; for GPUs that wait they advise smaller "
        "batches, to relieve CPUs and disks. A utilisation of 0.2 needs the clips to be there.",
        "## Limits",
        "\n".join(f"- {text}" for text in LIMITS),
    ]
    return "\n\n".join(parts) + "\n"


def _table(found: Plan) -> str:
    head, *rows = found.cells
    rule = ["--:"] * len(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _clips(found: Plan) -> float:
    return found.inputs.clips_per_core.value


def _star(found: Plan) -> str:
    return (
        f"`*` {found.batch_size} cannot be shared by 64: the next multiple is taken "
        '(`--batch-size 192`). "GPU": computing and AdamW. "issue": Python and PyTorch handing '
        'over the operators of a step. "waited": what nothing hides of "gradients". A step takes '
        "the longer of GPU and issue, and what is waited for, or as long as its clips take to "
        "arrive."
    )


def _inputs(inputs: Inputs) -> str:
    rows = [(field.name.replace("_", " "), getattr(inputs, field.name)) for field in fields(inputs)]
    lines = [f"| {name} | {x.value:g} {x.unit} | {x.origin} | {x.source} |" for name, x in rows]
    return "\n".join(["| input | value | origin | source |", "|---|--:|---|---|", *lines])


def _cards() -> str:
    lines = [
        f"| {name} | {x.tflops:g} | {x.memory:g} | {x.link:g} | {x.sheet} |"
        for name, x in CARDS.items()
    ]
    head = "| card | TFLOP/s | memory GB/s | link GB/s | data sheet |"
    return "\n".join([head, "|---|--:|--:|--:|---|", *lines])


def _hours(found: Plan, row: int) -> float:
    return found.rows[row].hours


def _videomae() -> float:
    """Share of the peak that VideoMAE's pre-training reached: ViT-B, 16 x 224 x 224, 90 %."""
    model = replace(base("vit").model, size_px=224)
    forward = sum(macs(model, "pretrain", mask_ratio=176 / 196, as_published=True).values())
    return 800 * 240_000 * 2 * BACKWARD * forward / (64 * 27 * 3600) / V100
