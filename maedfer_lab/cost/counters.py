"""Two independent counters of a model's forward pass: fvcore's and PyTorch's own.

Both follow the model's real code on the meta device, which holds shapes and no numbers, so that
the paper's models are counted in a second without computing anything. The Published classes run
our models with the official code's amount of work: the same results, nothing skipped.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jaxtyping
import torch
from accelerate import init_empty_weights
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from maedfer_lab.config import ModelConfig, TargetConfig
from maedfer_lab.cost.formula import Task, Work
from maedfer_lab.method.grid import patchify, take
from maedfer_lab.method.masking import TokenSplit
from maedfer_lab.method.models import (
    Classifier,
    MaskedAutoencoder,
    build_autoencoder,
    build_classifier,
    model_mask,
)
from maedfer_lab.method.targets import normalise_pixels

STAGES = {  # the last part of a module's name -> the formula's name
    part: stage for stage, parts in {
        "embedding": "embed", "local": "local_norm local_context_norm local_attn",
        "inter": "inter_norm inter_attn", "joint": "norm1 attn", "feed_forward": "norm2 mlp",
        "interact": "interact_norm interact_context_norm interact_attn", "norm": "norm fc_norm",
        "head": "head",
    }.items() for part in parts.split()
}  # fmt: skip
ATTENTION = "attention"  # what the handler below calls its count
PRODUCTS = ("bmm", "matmul", "attention")  # operators that multiply activations with each other


class Predict(nn.Module):
    """The autoencoder's predictions of the masked tokens for a given split of the tokens."""

    def __init__(self, model: MaskedAutoencoder, split: TokenSplit) -> None:
        super().__init__()
        self.model, self.split = model, split

    def forward(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b m p"]:
        """Embed, encode and decode what is needed, as `MaskedAutoencoder.predict` does."""
        return self.model.predict(clip, self.split)


class PublishedPredict(Predict):
    """The same predictions: all cubes are embedded, the last decoder block runs in full."""

    def forward(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b m p"]:
        """*Official:* hidden cubes are dropped after the embedding; all tokens are decoded."""
        encoder, decoder, split = self.model.encoder, self.model.decoder, self.split
        every = encoder.embed(patchify(normalise_pixels(clip), encoder.config.tubelet))
        x = take(every + encoder.positions, split.visible)
        if encoder.rep_tokens is None:
            for block in encoder.blocks:
                x = block(x)
        else:
            rep = encoder.rep_tokens.expand(len(clip), -1, -1).unsqueeze(2)
            z = torch.cat([rep, x.unflatten(1, (encoder.num_regions, -1))], 2)
            for block in encoder.blocks:
                z = block(z)
            x = z[:, :, 1:].flatten(1, 2)
        hidden = decoder.mask_token + decoder.positions[split.masked]
        visible = decoder.embed(self.model.norm(x)) + decoder.positions[split.decoder_positions]
        x = torch.cat([visible, hidden], 1)
        for block in decoder.blocks:
            x = block(x)
        return decoder.head(decoder.norm(x[:, -hidden.shape[1] :]))


class PublishedClassifier(nn.Module):
    """The same logits: the last block runs in full, also where tokens are not read after it."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b k"]:
        """*Official:* all stages of all blocks, then the mean of the tokens that are pooled."""
        encoded = self.model.encoder(clip)
        chosen = encoded.tokens if encoded.rep_tokens is None else encoded.rep_tokens
        return self.model.head(self.model.fc_norm(chosen.mean(1)))


def model_for_counting(
    config: ModelConfig, task: Task = "classify", *, num_classes: int = 7, mask_ratio: float = 0.9,
    as_published: bool = False, target: TargetConfig | None = None,
) -> tuple[nn.Module, torch.Tensor]:  # fmt: skip
    """A model on the meta device and a clip for it; arguments as in `formula.work`.

    Its parameters take no memory, whatever its size.
    """
    clip = torch.empty(1, 3, config.frames, config.size_px, config.size_px, device="meta")
    if task == "classify":
        with init_empty_weights():
            model = build_classifier(config, num_classes)
        return (PublishedClassifier(model) if as_published else model).to("meta").eval(), clip
    with init_empty_weights():
        model = build_autoencoder(config, target)
    mask = model_mask(model, mask_ratio, 1, torch.Generator())
    split = model.split(mask).to(clip.device)
    predict = PublishedPredict if as_published else Predict
    return predict(model, split).to("meta").eval(), clip


def count_with_torch(model: nn.Module, *inputs: torch.Tensor) -> dict[str, Work]:
    """Multiply-adds by stage according to `torch.utils.flop_counter`, which leaves LayerNorm out.

    PyTorch counts two operations per multiply-add; these are halved. Counts of a model whose
    stages share attention stand under the first of them.

    Raises ValueError for inputs that are not on the meta device: PyTorch's count of fused
    attention on a CPU is 0 in some versions.
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

    fvcore knows no fused attention; a handler makes the count the same whichever kernel runs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore stands on torch.jit, which is deprecated
        from fvcore.nn import FlopCountAnalysis
    analysis = FlopCountAnalysis(model, inputs)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _fused_attention)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    # While traced, sizes are tensors: jaxtyping's checks, where they are on, would refuse them.
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            counts, total = analysis.by_module_and_operator(), round(analysis.total())
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
    return _by_stage(
        {name: {op: round(n) for op, n in ops.items()} for name, ops in counts.items()}, total
    )


def _fused_attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
    """What the two products inside would be counted as: q with k, then weights with v."""
    q, k, v = (value.type().sizes() for value in inputs[:3])
    return Counter({ATTENTION: math.prod(q) * k[-2] + math.prod(q[:-1]) * k[-2] * v[-1]})


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
        own = Work(sum(ops.values()) - norm - attention, attention, norm)
        parts[stage] = parts.get(stage, Work()).plus(own)
    parts["other"] = Work(linear=total - sum(sum(part) for part in parts.values()))
    return {stage: part for stage, part in parts.items() if any(part)}
