"""Counts of the models: by closed formula, fvcore and PyTorch's own counter (`maedfer flops`).

The counters follow the model's real code on the meta device, which holds shapes and no numbers. As
published, our models do the official code's amount of work: the same results, nothing skipped. On a
CPU `fast` runs a ninth fewer of LGI-Former's products than any count.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from json import dumps
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from accelerate import init_empty_weights
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from maedfer_lab import text
from maedfer_lab.config import ModelConfig, Shape3, Size, TargetConfig, base, profile, sized
from maedfer_lab.cost.formula import ModelTask, Work, add, macs, macs_of, parameters, token_grid
from maedfer_lab.files import provenance, write_aside
from maedfer_lab.method import models
from maedfer_lab.method.grid import Grid, patchify, region_shapes, take
from maedfer_lab.method.masking import TokenSplit
from maedfer_lab.method.targets import normalise_pixels

STAGES = {  # the last part of a module's name -> the formula's name
    part: stage for stage, parts in {
        "embedding": "embed", "local": "local_norm local_context_norm local_attn",
        "inter": "inter_norm inter_attn", "joint": "norm1 attn", "feed_forward": "norm2 mlp",
        "interact": "interact_norm interact_context_norm interact_attn", "norm": "norm fc_norm",
        "head": "head",
    }.items() for part in parts.split()
}  # fmt: skip
PRODUCTS = ("bmm", "matmul", "attention")  # operators that multiply activations with each other
NAMED_REGIONS: tuple[Shape3, ...] = (
    (1, 5, 10), (2, 2, 10), (2, 5, 5), (2, 5, 10), (4, 5, 10), (4, 10, 10), (8, 10, 10)
)  # fmt: skip
TOTALS = ("macs", "macs_fvcore", "macs_torch")
ONCE = ("embedding", "norm", "head")  # of a classifier: what its blocks do not repeat


class Predict(nn.Module):
    """The autoencoder's predictions of the masked tokens for a given split of the tokens.

    as_published: computed as in the official code: hidden cubes are dropped after the embedding,
        and the last decoder block runs for all tokens.
    """

    def __init__(
        self, model: models.MaskedAutoencoder, split: TokenSplit, as_published: bool = False
    ) -> None:
        super().__init__()
        self.model, self.split, self.as_published = model, split, as_published

    def forward(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b m p"]:
        """Predicted targets."""
        if not self.as_published:
            return self.model.predict(clip, self.split)
        encoder, decoder, split = self.model.encoder, self.model.decoder, self.split
        every = encoder.embed(patchify(normalise_pixels(clip), encoder.config.tubelet))
        x = take(every + encoder.positions, split.visible)
        if encoder.rep_tokens is not None:
            rep = encoder.rep_tokens.expand(len(clip), -1, -1).unsqueeze(2)
            x = torch.cat([rep, x.unflatten(1, (encoder.num_regions, -1))], 2)
        for block in encoder.blocks:
            x = block(x)
        if encoder.rep_tokens is not None:
            x = x[:, :, 1:].flatten(1, 2)
        hidden = decoder.mask_token + decoder.positions[split.masked]
        visible = decoder.embed(self.model.norm(x)) + decoder.positions[split.decoder_positions]
        x = torch.cat([visible, hidden], 1)
        for block in decoder.blocks:
            x = block(x)
        return decoder.head(decoder.norm(x[:, -hidden.shape[1] :]))


class PublishedClassifier(nn.Module):
    """The same logits, but the last block runs in full, even for tokens that are not read."""

    def __init__(self, model: models.Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b k"]:
        """*Official:* all stages of all blocks, then the mean of the tokens that are pooled."""
        encoded = self.model.encoder(clip)
        chosen = encoded.tokens if encoded.rep_tokens is None else encoded.rep_tokens
        return self.model.head(self.model.fc_norm(chosen.mean(1)))


def model_for_counting(
    config: ModelConfig, task: ModelTask = "classify", *, num_classes: int = 7,
    mask_ratio: float = 0.9, as_published: bool = False, target: TargetConfig | None = None,
) -> tuple[nn.Module, torch.Tensor]:  # fmt: skip
    """A model on the meta device and a clip for it; arguments as in `formula.work`."""
    clip = torch.empty(1, 3, config.frames, config.size_px, config.size_px, device="meta")
    if task == "classify":
        with init_empty_weights():
            model = models.build_classifier(config, num_classes)
        return (PublishedClassifier(model) if as_published else model).to("meta").eval(), clip
    with init_empty_weights():
        model = models.build_autoencoder(config, target)
    split = model.split(models.model_mask(model, mask_ratio, 1, torch.Generator())).to(clip.device)
    return Predict(model, split, as_published).to("meta").eval(), clip


def count_with_torch(model: nn.Module, *inputs: torch.Tensor) -> dict[str, Work]:
    """Multiply-adds by stage according to `torch.utils.flop_counter`, which leaves LayerNorm out.

    Its two operations per multiply-add are halved. Stages that share attention count as the first.
    Raises ValueError for inputs elsewhere than on the meta device: some versions of PyTorch count
    fused attention on a CPU as 0.
    """
    if any(x.device.type != "meta" for x in inputs):
        raise ValueError(
            f"inputs on {inputs[0].device} would be miscounted; count on the meta device, where "
            "model_for_counting builds"
        )
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    root, counts = f"{type(model).__name__}.", counter.get_flop_counts()
    found = {name.removeprefix(root): {str(op): n // 2 for op, n in ops.items()}
             for name, ops in counts.items()}  # fmt: skip
    return _by_stage(found, counter.get_total_flops() // 2)


def count_with_fvcore(model: nn.Module, *inputs: torch.Tensor) -> dict[str, Work]:
    """Multiply-adds, and operations of LayerNorm, by stage according to fvcore.

    fvcore has no handler for fused attention; ours makes the count independent of the kernel.
    """
    # While traced, sizes are tensors: jaxtyping's checks, where they are on, would refuse them.
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # fvcore stands on torch.jit, which is deprecated
            from fvcore.nn import FlopCountAnalysis

            analysis = FlopCountAnalysis(model, inputs)
            analysis.set_op_handle("aten::scaled_dot_product_attention", _fused_attention)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            counts, total = analysis.by_module_and_operator(), round(analysis.total())
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
    found = {name: {op: round(n) for op, n in ops.items()} for name, ops in counts.items()}
    return _by_stage(found, total)


def _fused_attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
    """The two products inside: q with k, then weights with v."""
    q, k, v = (value.type().sizes() for value in inputs[:3])
    return Counter({"attention": math.prod(q) * k[-2] + math.prod(q[:-1]) * k[-2] * v[-1]})


def _by_stage(found: dict[str, dict[str, int]], total: int) -> dict[str, Work]:
    """Sum the counts of a model's modules by the formula's stages; the rest is "other"."""
    parts: dict[str, Work] = {}
    for name, ops in found.items():
        *above, last = name.split(".")
        if last not in STAGES or any(part in STAGES for part in above):
            continue
        stage = f"decoder_{STAGES[last]}" if "decoder" in above else STAGES[last]
        norm = sum(n for op, n in ops.items() if op.endswith("layer_norm"))
        attention = sum(n for op, n in ops.items() if any(product in op for product in PRODUCTS))
        add(parts, {stage: Work(sum(ops.values()) - norm - attention, attention, norm)})
    parts["other"] = Work(linear=total - sum(sum(part) for part in parts.values()))
    return {stage: part for stage, part in parts.items() if any(part)}


@dataclass(frozen=True)
class Count:
    """One model counted three ways, in multiply-adds per clip (a GFLOP is half a GMAC).

    formula, fvcore, torch: by stage; fvcore without what it adds for LayerNorm.
    layer_norm: what fvcore adds for LayerNorm (the paper's numbers hold it).
    skipped: by stage, unused work of the official code that our models skip; empty for a count of
        the official work.
    """

    name: str
    task: ModelTask
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
    name: str, config: ModelConfig, task: ModelTask = "classify", *, as_published: bool = True
) -> Count:
    """Count a model three ways; 7 classes, 90 % masking.

    as_published: the official code's work, or ours with its dead work skipped (`formula.work`). All
        blocks of a published classifier do the same work, so one is counted and multiplied.
    """
    times = max(config.depth, 1) if task == "classify" and as_published else 1
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
    plans: list[tuple[str, ModelConfig, ModelTask, bool]] = [
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
    return [count(" x ".join(map(str, shape)), replace(lgi, region=shape))
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
    counted, regions = count_models(size), count_regions(size=size)
    if json is not None:
        source = provenance(profile=profile().name, seed=0, device="meta")
        content = {"provenance": source, **to_data(counted, regions)}
        write_aside(json, (dumps(content, indent=1) + "\n").encode())
    return "\n\n".join([table(counted), stage_table(counted[:3]), region_table(regions)])


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
            lines.append(f"{row.name}, {row.task}: skips {parts} GMACs of unused results.")
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
