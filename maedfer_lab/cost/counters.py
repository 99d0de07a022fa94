"""Two independent counters of a model's forward pass: fvcore's and PyTorch's own.

Both follow the model's real code on the meta device, which holds shapes and no numbers, so that
the paper's models are counted in a second without computing anything. The Published classes run
our models with the official code's amount of work: the same results, nothing skipped.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from maedfer_lab.method.masking import TokenSplit, region_tube_mask, tube_mask
from maedfer_lab.method.models import (
    Classifier,
    MaskedAutoencoder,
    build_autoencoder,
    build_classifier,
)
from maedfer_lab.method.targets import normalise_pixels

STAGES = {  # the last part of a module's name -> the formula's name
    "embed": "embedding",
    "local_norm": "local",
    "local_context_norm": "local",
    "local_attn": "local",
    "inter_norm": "inter",
    "inter_attn": "inter",
    "interact_norm": "interact",
    "interact_context_norm": "interact",
    "interact_attn": "interact",
    "norm1": "joint",
    "attn": "joint",
    "norm2": "feed_forward",
    "mlp": "feed_forward",
    "norm": "norm",
    "fc_norm": "norm",
    "head": "head",
}
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
    config: ModelConfig,
    task: Task = "classify",
    *,
    num_classes: int = 7,
    mask_ratio: float = 0.9,
    as_published: bool = False,
    target: TargetConfig | None = None,
) -> tuple[nn.Module, torch.Tensor]:
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
    if config.has_regions:
        mask = region_tube_mask(model.grid, config.region, mask_ratio)
    else:
        mask = tube_mask(model.grid, mask_ratio)
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
    root = f"{type(model).__name__}."
    found = {
        name.removeprefix(root): {str(op): n // 2 for op, n in ops.items()}
        for name, ops in counter.get_flop_counts().items()
    }
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
    with warnings.catch_warnings(), torch.no_grad(), _without_shape_checks():
        warnings.simplefilter("ignore")
        found = {
            name: {op: round(n) for op, n in ops.items()}
            for name, ops in analysis.by_module_and_operator().items()
        }
        return _by_stage(found, round(analysis.total()))


@contextmanager
def _without_shape_checks() -> Iterator[None]:
    """While traced, sizes are tensors: jaxtyping's checks, where they are on, would refuse them."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


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
        parts[stage] = parts.get(stage, Work()).plus(_work(ops))
    parts["other"] = Work(linear=total - sum(sum(part) for part in parts.values()))
    return {stage: part for stage, part in parts.items() if any(part)}


def _work(ops: dict[str, int]) -> Work:
    """Sort a module's operators into multiply-adds with weights, between tokens, and LayerNorm."""
    norm = sum(n for op, n in ops.items() if op.endswith("layer_norm"))
    attention = sum(n for op, n in ops.items() if any(product in op for product in PRODUCTS))
    return Work(sum(ops.values()) - norm - attention, attention, norm)
