"""Classifier: the encoder over all tokens, pooled, with one linear layer."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maedfer_lab.config import ModelConfig, choose
from maedfer_lab.method.attention import layer_norm
from maedfer_lab.method.encoder import Encoder, init_normal

Tokens = Literal["rep", "tokens", "all"]
Pooling = Literal["mean", "first"]


class Classifier(nn.Module):
    """Dynamic facial expression classifier (Sun et al., section 3.4).

    tokens: what is read of the encoder: "rep", the representative tokens (as published);
        "tokens", the original tokens (all that a ViT has); "all", both.
    pooling: "mean" of these tokens, then LayerNorm; or the "first" of them, normed.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_classes: int,
        tokens: Tokens = "rep",
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        choose("tokens", tokens, get_args(Tokens))
        choose("pooling", pooling, get_args(Pooling))
        if config.encoder == "vit" and tokens != "tokens":
            raise ValueError(
                f"tokens={tokens!r} needs representative tokens, which a ViT does not have; use "
                "tokens='tokens'"
            )
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes} must be at least 1; DFEW has 7")
        self.config, self.tokens, self.pooling = config, tokens, pooling
        self.encoder = Encoder(config)
        self.fc_norm = layer_norm(config.width)
        self.head = nn.Linear(config.width, num_classes)
        init_normal(self)
        if self.encoder.rep_tokens is not None:
            nn.init.trunc_normal_(self.encoder.rep_tokens, std=0.02)
        with torch.no_grad():  # the reference starts with logits near zero
            self.head.weight.mul_(0.001)
            self.head.bias.mul_(0.001)

    def read_tokens(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b n d"]:
        """The tokens that are pooled; pixels in [0, 1]."""
        encoded = self.encoder(clip, rep_only=self.tokens == "rep")
        if encoded.rep_tokens is None or self.tokens == "tokens":
            return encoded.tokens
        if self.tokens == "rep":
            return encoded.rep_tokens
        return torch.cat([encoded.rep_tokens, encoded.tokens], 1)

    def pool(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        """One normalised feature per clip."""
        return self.fc_norm(tokens[:, 0] if self.pooling == "first" else tokens.mean(1))

    def features(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b d"]:
        """Pooled and normalised feature of each clip; pixels in [0, 1]."""
        return self.pool(self.read_tokens(clip))

    def forward(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b k"]:
        """Logits."""
        return self.head(self.features(clip))


def build_classifier(
    config: ModelConfig,
    num_classes: int,
    tokens: Tokens | None = None,
    pooling: Pooling = "mean",
    *,
    seed: int = 0,
) -> Classifier:
    """A freshly initialised classifier; the global random state is left alone.

    tokens: by default representative tokens, or for a ViT the tokens there are.
    """
    if tokens is None:
        tokens = "rep" if config.encoder == "lgi" else "tokens"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(config, num_classes, tokens, pooling)
