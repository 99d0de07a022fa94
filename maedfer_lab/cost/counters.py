"""Two independent counters of a model's forward pass: fvcore's and PyTorch's own.

Both follow the model's real code on the meta device, which holds shapes and no numbers. As
published, our models do the official code's amount of work: the same results, nothing skipped.
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
from maedfer_lab.cost.formula import Task, Work, add
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
PRODUCTS = ("bmm", "matmul", "attention")  # operators that multiply activations with each other


class Predict(nn.Module):
    """The autoencoder's predictions of the masked tokens for a given split of the tokens.

    as_published: the same ones as the official code comes to them: hidden cubes are dropped after
        the embedding, and the last decoder block runs for all tokens.
    """

    def __init__(
        self, model: MaskedAutoencoder, split: TokenSplit, as_published: bool = False
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
    """A model on the meta device and a clip for it; arguments as in `formula.work`."""
    clip = torch.empty(1, 3, config.frames, config.size_px, config.size_px, device="meta")
    if task == "classify":
        with init_empty_weights():
            model = build_classifier(config, num_classes)
        return (PublishedClassifier(model) if as_published else model).to("meta").eval(), clip
    with init_empty_weights():
        model = build_autoencoder(config, target)
    split = model.split(model_mask(model, mask_ratio, 1, torch.Generator())).to(clip.device)
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

    fvcore knows no fused attention; a handler makes the count the same whichever kernel runs.
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
