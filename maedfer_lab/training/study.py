"""The study at small scale (docs/study.md): the benefit of pre-training, and of each choice.

A piece is one variant with one seed: pre-trained, probed, fine-tuned, tested on its own people,
which are disjoint from training. Rows are saved below runs/, so an interrupted study resumes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from maedfer_lab.config import (
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    StudyConfig,
    num_cores,
    output_folder,
    register_encoder,
)
from maedfer_lab.config.study import CORE_HOURS, LONG, LONG_ALONE, REFERENCE, study
from maedfer_lab.cost.formula import parameters, token_grid, total_macs
from maedfer_lab.cost.tables import count_with_torch, model_for_counting
from maedfer_lab.data.table import Annotations, Clip
from maedfer_lab.files import load, provenance, reading, write_aside
from maedfer_lab.method.grid import Grid, region_shapes
from maedfer_lab.method.models import Classifier, Encoded, Encoder, build_classifier
from maedfer_lab.metrics import confusion_matrix, linear_probe, nearest_classes, uar
from maedfer_lab.training.finetune import FinetunedRun, finetune
from maedfer_lab.training.optim import device_name
from maedfer_lab.training.pretrain import PretrainedRun, pretrain
from maedfer_lab.training.stream import labelled_table
from maedfer_lab.weights import shipped

StudyRow = dict[str, Any]
GRID_WIDTHS = 6  # positions="grid" gives each of three axes a sine and a cosine
PRETRAINED, SCRATCH, CONV = "pre-trained", "from scratch", "small conv net"
FINETUNED, LINEAR, ATTENTIVE, KNN = "fine-tuned", "linear probe", "attentive probe", "kNN"
RANDOM, PIXELS = "random, frozen", "pixels"
LENGTHS = (0.125, 0.25, 0.5, 2.0, 4.0, 8.0)  # of pre-training, in multiples of the reference's


def variants(config: StudyConfig) -> dict[str, PretrainConfig]:
    """All variants by name: the reference, and each with one change to it.

    lambda weighs appearance: motion_weight = 1 - lambda (Sun et al., section 3.3).
    """
    whole = config.pretrain
    lengths = {f"{times:g} x length": shortened(whole, times) for times in LENGTHS}

    def model(**changes: Any) -> PretrainConfig:
        return replace(whole, model=replace(whole.model, **changes))

    def weighted(lam: float, start: PretrainConfig = whole) -> PretrainConfig:
        return replace(start, target=replace(start.target, motion_weight=1 - lam))

    found = {
        REFERENCE: whole,
        **lengths,
        "appearance only, lambda 1": weighted(1.0),
        LONG_ALONE: weighted(1.0, lengths[LONG]),
        "lambda 0.75": weighted(0.75),
        "lambda 0.25": weighted(0.25),
        "motion only, lambda 0": weighted(0.0),
        "without stage 2": model(inter=False),
        "without stage 3": model(interact="none"),
        "without stages 2 and 3": model(inter=False, interact="none"),
        "legacy token order": model(legacy_visible_order=True),
        **{f"ViT at equal {what}": replace(whole, model=vit_like(whole.model, what))
           for what in ("cost", "parameters")},
    }  # fmt: skip
    for region in other_regions(whole):
        found[f"region {' x '.join(map(str, region))}"] = model(region=region)
    places = whole.model.region[1] * whole.model.region[2]
    for hidden in sorted({round(places * share) for share in (0.5, 0.67, 0.9)}):
        ratio = hidden / places
        if 0 < hidden < places and ratio not in whole.mask_ratio:
            found[f"{ratio:.0%} masked"] = replace(whole, mask_ratio=(ratio,))
    return found


def shortened(whole: PretrainConfig, times: float) -> PretrainConfig:
    """The same recipe with a schedule of `times` the steps."""
    steps = max(1, round(times * whole.optim.steps))
    optim = replace(whole.optim, steps=steps, warmup_steps=steps // 20)
    return replace(whole, optim=optim, eval_every=max(1, steps // 4), save_every=steps)


def other_regions(reference: PretrainConfig) -> list[tuple[int, int, int]]:
    """Regions that differ from the reference's in time, or in space (half or all of each side).

    All divide the grid and can hide the reference's share of their places.
    """
    t, h, w = token_grid(reference.model)
    own, ratios = reference.model.region, reference.mask_ratio
    sizes = {(length, own[1], own[2]) for length in range(1, t + 1)}
    sizes |= {(own[0], height, width) for height in (h // 2, h) for width in (w // 2, w)}
    sizes &= {*region_shapes(Grid(t, h, w))} - {own}
    hidden = {s: [ratio * s[1] * s[2] for ratio in ratios] for s in sizes}
    return sorted(s for s in sizes if all(abs(x - round(x)) < 1e-6 for x in hidden[s]))


def vit_like(model: ModelConfig, what: str) -> ModelConfig:
    """A ViT of the same depth and heads, with the width nearest in "cost" or "parameters".

    Cost: multiply-adds of a classification; both by closed formula.
    """

    def size(one: ModelConfig) -> int:
        return total_macs(one) if what == "cost" else sum(parameters(one).values())

    step = math.lcm(GRID_WIDTHS, model.num_heads)
    widths = range(step, 4 * model.width, step)
    vits = [replace(model, encoder="vit", width=width) for width in widths]
    return min(vits, key=lambda vit: abs(size(vit) - size(model)))


@register_encoder("small conv net")
class ConvEncoder(Encoder):
    """The supervised control: three 3-D convolutions, each halving the resolution; no attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(replace(config, encoder="vit", depth=0))
        widths, layers = (3, 24, 48, config.width), []
        for old, new in pairwise(widths):
            layers += [nn.Conv3d(old, new, 3, (1, 2, 2), 1), nn.BatchNorm3d(new), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        del self.embed

    def forward(self, clip: Tensor, index: Tensor | None = None, **_: Any) -> Encoded:
        """Feature maps (b t h w) as tokens."""
        tokens = self.layers(clip - 0.5).flatten(2).transpose(1, 2)
        return Encoded(tokens, None, torch.zeros(tokens.shape[:2], dtype=torch.long))


# ---------------------------------------------------------------------- pieces of the study


class Piece(NamedTuple):
    """One variant with one seed."""

    variant: str
    seed: int


def pieces(config: StudyConfig) -> list[Piece]:
    """In the order of execution: the reference first, then variant after variant."""
    few = config.seeds[: config.variant_seeds]
    all_seeds = (config.variants[0], LONG)
    return [Piece(v, s) for v in config.variants for s in (config.seeds if v in all_seeds else few)]


def run_piece(
    config: StudyConfig,
    piece: Piece,
    *,
    own: Mapping[str, PretrainConfig] | None = None,
    output: Path | None = None,
    profile: str = "none",
) -> list[StudyRow]:
    """The rows of a piece: loaded if it has been run before.

    A row has `variant`, `seed`, and either a pre-training ("pre-training": held-out losses in
    units of the better baseline) or a score ("uar" in [0, 1] on held-out people of `start`
    and `how`, for the `label`, with `labels` labels).
    """
    known = variants(config) | dict(own or {})
    if piece.variant not in known:
        raise ValueError(f"variant={piece.variant!r} is not known; known: {', '.join(known)}")
    start = replace(known[piece.variant], seed=piece.seed)
    is_reference = piece.variant == config.variants[0]
    counts = config.long_labels if piece.variant.startswith(LONG) else (config.variant_labels,)
    counts = config.labels if is_reference else counts
    parts = (start, config.finetune, config.scratch_lr, config.conv_lr, counts, config.direction,
             config.conv, is_reference)  # fmt: skip
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:10]
    root = (output or output_folder()) / "runs" / "study"
    path = root / f"{piece.variant.replace(' ', '-')}-{piece.seed}-{digest}.json"
    if path.exists():
        with reading(path):
            return load(path)["rows"]
    began = perf_counter()
    options = {"output": output, "profile": profile}
    run = pretrain(start, **options)
    rows = [_pretraining_row(run)]
    plan = replace(config.finetune, model=start.model, init=start, seed=piece.seed)
    middle = config.labels[len(config.labels) // 2]
    differs = "lambda" in piece.variant or piece.variant == LONG  # from others in its targets
    for label in ("expression", "direction"):
        for count in counts if is_reference or label == "expression" else config.direction:
            one = replace(plan, num_clips=count, drawn_label=label)
            rows += _probes(one, run, is_reference)
            if label == "expression" or (differs and count in config.direction):
                for name, recipe in _starts(config, one, is_reference).items():
                    row = _score(finetune(recipe, **options), name, recipe)
                    if not is_reference or (label, count) != ("expression", middle):
                        del row["confusion"]  # not used in any figure, and long
                    rows.append(row)
    rows = [{"variant": piece.variant, "seed": piece.seed, **row} for row in rows]
    source = provenance(profile=profile, seed=piece.seed, device=device_name(torch.device("cpu")),
                        seconds=round(perf_counter() - began, 1))  # fmt: skip
    text = json.dumps({"provenance": source, "rows": rows}, indent=0, allow_nan=False)
    write_aside(path, text.encode())
    return rows


def _starts(
    config: StudyConfig, plan: FinetuneConfig, is_reference: bool
) -> dict[str, FinetuneConfig]:
    """Fine-tuning from each initialisation, each with its own learning rate."""
    starts = {PRETRAINED: plan}
    if is_reference:
        random = replace(plan, init=None, mode="scratch", layer_decay=1.0)
        starts[SCRATCH] = replace(random, optim=replace(plan.optim, lr=config.scratch_lr))
        if plan.num_clips in config.conv and plan.drawn_label == "expression":  # slow on a CPU
            conv = replace(plan.model, encoder=CONV)
            starts[CONV] = replace(random, model=conv, pooling="mean",
                                   optim=replace(plan.optim, lr=config.conv_lr))  # fmt: skip
    return starts


def _pretraining_row(run: PretrainedRun) -> StudyRow:
    result, config = run.result, run.config
    best = {
        kind: loss  # a baseline of 0: not predicted
        for kind in ("appearance", "motion")
        if (loss := min(losses[kind] for losses in result["baselines"].values()))
    }
    curve = [
        [row["step"], *(round(row[f"held_out_{kind}"] / best[kind], 4) for kind in best)]
        for row in run.log
        if "held_out_motion" in row
    ]
    return {
        "how": "pre-training",
        **{kind: result["held_out"][kind] / best[kind] for kind in best},
        "curve": curve,
        "steps": config.optim.steps,
        "seconds": round(result["seconds"], 1),
        "gmacs": _gmacs(config.model),
        "pretrain_gmacs": _gmacs(config.model, config),
        "parameters": sum(p.numel() for p in run.model.encoder.parameters()),
    }


def _score(run: FinetunedRun, start: str, config: FinetuneConfig) -> StudyRow:
    found = run.result
    return {"how": FINETUNED, "start": start, "label": config.drawn_label,
            "labels": config.num_clips, "uar": found["uar"], "confusion": found["confusion"],
            "seconds": round(found["seconds"], 1)}  # fmt: skip


def _probes(config: FinetuneConfig, run: PretrainedRun, is_reference: bool) -> list[StudyRow]:
    """Scores of frozen features; for the reference also a random encoder's, and of pixels."""
    table = labelled_table(config).middle()  # type: ignore (drawn faces)
    train, test = table.split(config.fold)
    shown = [_frames(table, part) for part in (train, test)]
    labels = [np.array([clip.label for clip in part]) for part in (train, test)]
    classes = len(table.classes)
    model = build_classifier(config.model, classes, pooling=config.pooling, seed=config.seed)
    sources: dict[str, list[np.ndarray]] = {}
    if is_reference:
        sources[RANDOM] = [_features(model, clips)[0] for clips in shown]
        sources[PIXELS] = [clips[:, :, :, ::3, ::3].flatten(1).numpy() for clips in shown]
    model.encoder.load_state_dict(run.model.encoder.state_dict())
    features, tokens = zip(*(_features(model, clips) for clips in shown), strict=True)
    sources[PRETRAINED] = [*features]
    found: list[tuple[str, str, np.ndarray]] = []  # start, how, chances
    for start, (known, unseen) in sources.items():
        given = known, labels[0], unseen, classes
        found.append((start, LINEAR, linear_probe(*given, strength=PROBE_STRENGTH)))
        if start != PIXELS and is_reference:
            found.append((start, KNN, nearest_classes(*given)))
    if is_reference:
        chances = attentive_probe(tokens[0], labels[0], tokens[1], classes, config.seed)
        found.append((PRETRAINED, ATTENTIVE, chances))
    return [{"how": how, "start": start, "label": config.drawn_label, "labels": len(train),
             "uar": uar(confusion_matrix(labels[1], chances.argmax(1), classes))}
            for start, how, chances in found]  # fmt: skip


PROBE_STRENGTH = 0.1  # of the logistic regression; chosen on the tuning seeds
CHUNK = 70  # clips whose features are made at a time


def _frames(table: Annotations, clips: Sequence[Clip]) -> Float[Tensor, "n 3 T H W"]:
    readers = [table.open(clip) for clip in clips]
    frames = np.stack([reader.read(list(range(len(reader)))) for reader in readers])
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float().div(255)


@torch.no_grad()
def _features(model: Classifier, clips: Tensor) -> tuple[Float[np.ndarray, "n d"], Tensor]:
    """The head's input, not yet standardised; and all tokens, representative ones first."""
    model.eval()
    read, everything = [], []
    for part in clips.split(CHUNK):
        encoded = model.encoder(part)
        own = [] if encoded.rep_tokens is None else [encoded.rep_tokens]
        everything.append(torch.cat([*own, encoded.tokens], 1))
        read.append(model.choose_tokens(encoded).flatten(1))
    return torch.cat(read).double().numpy(), torch.cat(everything)


def attentive_probe(
    known: Float[Tensor, "n k d"], labels: np.ndarray, unseen: Float[Tensor, "m k d"],
    classes: int, seed: int, steps: int = 200,
) -> np.ndarray:  # fmt: skip
    """Logits of a learned query that attends over all frozen tokens, and a linear layer."""
    mean, std = known.mean((0, 1)), known.std((0, 1)).clamp_min(1e-6)
    known, unseen = (known - mean) / std, (unseen - mean) / std
    targets = torch.from_numpy(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = known.shape[-1]
        query = nn.Parameter(0.02 * torch.randn(1, 1, width))
        attend = nn.MultiheadAttention(width, 4, dropout=0.1, batch_first=True)
        head = nn.Linear(width, classes)
        parts = nn.ModuleList([attend, head])

        def logits(x: Tensor) -> Tensor:
            read = attend(query.expand(len(x), -1, -1), x, x, need_weights=False)[0]
            return head(read[:, 0])

        optimiser = torch.optim.AdamW([query, *parts.parameters()], lr=2e-3, weight_decay=0.05)
        for _ in range(steps):
            chosen = torch.randint(len(known), (32,))
            loss = nn.functional.cross_entropy(logits(known[chosen]), targets[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            parts.eval()
            return torch.cat([logits(x) for x in unseen.split(CHUNK)]).numpy()


def _gmacs(model: ModelConfig, start: PretrainConfig | None = None) -> float:
    """Of one clip: by closed formula, or counted if your own encoder or target has none."""
    task, ratio = ("pretrain", start.mask_ratio[0]) if start else ("classify", 0.9)
    if model.extension or (start and start.target.extension):
        target = start.target if start else None
        counted = model_for_counting(model, task, mask_ratio=ratio, target=target)
        return sum(part.macs for part in count_with_torch(*counted).values()) / 1e9
    return total_macs(model, task, mask_ratio=ratio) / 1e9


# ---------------------------------------------------------------------- the whole


def run_study(
    config: StudyConfig,
    *,
    own: Mapping[str, PretrainConfig] | None = None,
    output: Path | None = None,
    profile: str = "none",
    jobs: int = 1,
) -> list[StudyRow]:
    """All rows of the study; pieces that have been run before are loaded.

    own: further variants by name, e.g. `config.pretrain` with a registered encoder or target;
        evaluated like the other variants. jobs: processes, of one thread each.
    """
    plan = pieces(config)
    plan += [Piece(v, s) for s in config.seeds[: config.variant_seeds] for v in own or ()]
    options = {"own": own, "output": output, "profile": profile}
    if jobs == 1:
        found = [run_piece(config, piece, **options) for piece in plan]
    else:
        with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            found = list(pool.map(partial(run_piece, config, **options), plan))
    return [row for rows in found for row in rows]


def own_points(
    config: StudyConfig, *, output: Path | None = None, profile: str = "none"
) -> list[StudyRow]:
    """Repeat points of the committed study: from its shipped pre-training (`LONG`) and scratch."""
    rows, seed = [], config.seeds[0]
    for label, counts in (("expression", config.labels), ("direction", config.direction)):
        for count in counts:
            plan = replace(config.finetune, num_clips=count, drawn_label=label, seed=seed)
            shown = replace(plan, init=None, checkpoint=shipped("study"))
            scratch = _starts(config, plan, True)[SCRATCH]
            for variant, start, recipe in (
                (LONG, PRETRAINED, shown), (config.variants[0], SCRATCH, scratch)
            ):  # fmt: skip
                run = finetune(recipe, output=output, profile=profile)
                rows.append({"variant": variant, "seed": seed, **_score(run, start, recipe)})
    return rows


def main() -> None:
    """`make study`: print its duration, run what is missing, save the rows in the package."""
    print(f"about {CORE_HOURS:g} core hours on two cores of an AMD EPYC; resumes if interrupted",
          flush=True)  # fmt: skip
    began, jobs, config = perf_counter(), num_cores(), study()
    rows = run_study(config, profile="study", jobs=jobs)
    source = provenance(
        profile="study", seed=config.seeds[0], seeds=config.seeds,
        device=f"{jobs} CPU cores, one thread each",
        seconds=sum(row.get("seconds", 0) for row in rows),
    )  # fmt: skip
    path = output_folder() / "maedfer_lab" / "paper" / "data" / "study.json"
    path = path if path.parent.is_dir() else output_folder() / "study.json"
    lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
    text = f'{{"provenance": {json.dumps(source)},\n"rows": [\n{lines}\n]}}\n'
    write_aside(path, text.encode())
    print(f"{path} after {(perf_counter() - began) / 3600:.1f} hours")


if __name__ == "__main__":
    main()
