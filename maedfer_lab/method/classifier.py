"""Classifier: the encoder over all tokens, pooled, with one linear layer."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maedfer_lab.config import ModelConfig, choose
from maedfer_lab.method.attention import layer_norm
from maedfer_lab.method.encoder import Encoder, init_normal

Pooling = Literal["rep", "tokens", "all", "first"]


class Classifier(nn.Module):
    """Dynamic facial expression classifier (Sun et al., section 3.4).

    pooling: "rep", the mean of the representative tokens (as published); "tokens", of the
        original tokens (for a ViT the only mean there is); "all", of both; "first", the first
        token after a final LayerNorm, without mean.
    """

    def __init__(self, config: ModelConfig, num_classes: int, pooling: Pooling = "rep") -> None:
        super().__init__()
        choose("pooling", pooling, get_args(Pooling))
        if config.encoder == "vit" and pooling in ("rep", "all"):
            raise ValueError(
                f"pooling={pooling!r} needs representative tokens, which a ViT does not have; "
                "use pooling='tokens'"
            )
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes} must be at least 1; DFEW has 7")
        self.config, self.pooling = config, pooling
        self.encoder = Encoder(config)
        self.fc_norm = layer_norm(config.width)
        self.head = nn.Linear(config.width, num_classes)
        init_normal(self)
        if self.encoder.rep_tokens is not None:
            nn.init.trunc_normal_(self.encoder.rep_tokens, std=0.02)
        with torch.no_grad():  # the reference starts with logits near zero
            self.head.weight.mul_(0.001)
            self.head.bias.mul_(0.001)

    def features(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b d"]:
        """Pooled and normalised feature of each clip; pixels in [0, 1]."""
        encoded = self.encoder(clip, rep_only=self.pooling == "rep")
        rep, tokens = encoded.rep_tokens, encoded.tokens
        if self.pooling == "tokens" or rep is None:
            pooled = tokens if self.pooling != "first" else tokens[:, :1]
        elif self.pooling == "rep":
            pooled = rep
        elif self.pooling == "all":
            pooled = torch.cat([rep, tokens], 1)
        else:  # "first": the representative token of the first region leads the sequence
            pooled = rep[:, :1]
        return self.fc_norm(pooled.mean(1))

    def forward(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b k"]:
        """Logits."""
        return self.head(self.features(clip))


def build_classifier(
    config: ModelConfig, num_classes: int, pooling: Pooling | None = None, *, seed: int = 0
) -> Classifier:
    """A freshly initialised classifier; the global random state is left alone."""
    if pooling is None:
        pooling = "rep" if config.encoder == "lgi" else "tokens"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(config, num_classes, pooling)
