"""Attention, the LGI-Former block with its three stages, and the plain ViT block.

Every block can also return its attention weights: the same code with the softmax written out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6


def layer_norm(width: int) -> nn.LayerNorm:
    """LayerNorm with the reference's epsilon, 1e-6."""
    return nn.LayerNorm(width, eps=LAYER_NORM_EPS)


class Attention(nn.Module):
    """Multi-head attention of `x` to `context` (to itself without one).

    One matrix `qkv` holds the query, key and value projections, so that self-attention is one
    product. Keys carry no bias: a constant added to all keys cannot change a softmax.
    """

    def __init__(self, width: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if qkv_bias else None
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b k d"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Fused attention; equal to `with_weights` up to rounding."""
        q, k, v = self._project(x, context)
        if q.device.type == "cpu" and q.dtype == torch.bfloat16:
            # There the fused kernel's backward is slow: measured, 1.4 times a whole step.
            return self._merge(_weights(q, k) @ v)
        return self._merge(F.scaled_dot_product_attention(q, k, v))

    def with_weights(
        self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b k d"] | None = None
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b a n k2"]]:
        """The same output, with the attention weights (each row sums to 1)."""
        q, k, v = self._project(x, context)
        weights = _weights(q, k)
        return self._merge(weights @ v), weights

    def _project(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        heads, bias = self.num_heads, None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        if context is None:
            qkv = F.linear(x, self.qkv.weight, bias)
            q, k, v = rearrange(qkv, "b n (three a d) -> three b a n d", three=3, a=heads)
            return q, k, v
        width = x.shape[-1]
        q = F.linear(x, self.qkv.weight[:width], self.q_bias)
        kv = F.linear(context, self.qkv.weight[width:], bias[width:] if bias is not None else None)
        k, v = rearrange(kv, "b n (two a d) -> two b a n d", two=2, a=heads)
        return rearrange(q, "b n (a d) -> b a n d", a=heads), k, v

    def _merge(self, x: Tensor) -> Tensor:
        return self.proj(rearrange(x, "b a n d -> b n (a d)"))


def _weights(q: Tensor, k: Tensor) -> Tensor:
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, ratio: float = 4.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, int(width * ratio))
        self.fc2 = nn.Linear(int(width * ratio), width)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Applied to each token alone."""
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Drop a residual branch for whole rows of the first axis, in training (stochastic depth)."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Rows that stay are divided by the share that stays."""
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty(x.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)


def _attend(
    stage: str,
    attn: Attention,
    x: Tensor,
    context: Tensor | None,
    weights: dict[str, Tensor] | None,
) -> Tensor:
    if weights is None:
        return attn(x, context)
    update, weights[stage] = attn.with_weights(x, context)
    return update


class ViTBlock(nn.Module):
    """Pre-norm transformer block with joint attention: VideoMAE's, and the decoder's."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = layer_norm(width)
        self.attn = Attention(width, num_heads, qkv_bias)
        self.norm2 = layer_norm(width)
        self.mlp = FeedForward(width, mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        *,
        last: int | None = None,
        weights: dict[str, Tensor] | None = None,
    ) -> Float[Tensor, "b n2 d"]:
        """Attention, then FFN.

        last: compute and return only that many tokens at the end of the sequence.
        weights: a dict to fill with the attention weights, "joint" (b a n n).
        """
        normed = self.norm1(x)
        query, context = normed, None
        if last is not None:
            x, query, context = x[:, -last:], normed[:, -last:], normed
        x = x + self.drop_path(_attend("joint", self.attn, query, context, weights))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class LGIBlock(nn.Module):
    """Local-global interaction block of LGI-Former (Sun et al., section 3.2).

    Per region i with tokens X_i and representative token s_i:

    1. local: self-attention inside [s_i; X_i]  ("cross": s_i alone gathers from X_i)
    2. inter: self-attention among s_1 ... s_M
    3. interact: cross-attention from every token to s_1 ... s_M  ("self": stage 1 once more)
    4. feed_forward: one FFN for tokens and representative tokens

    Each stage is pre-norm with a residual. Drop path acts per region in stages 1 and 4 and per
    clip in stages 2 and 3, as in the official code.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        *,
        local: str = "self",
        inter: bool = True,
        interact: str = "cross",
        shared: str = "none",
    ) -> None:
        super().__init__()

        def attention(share: bool) -> Attention:
            return self.local_attn if share else Attention(width, num_heads, qkv_bias)

        self.local_kind, self.interact_kind = local, interact
        self.local_norm = layer_norm(width)
        self.local_context_norm = layer_norm(width) if local == "cross" else None
        self.local_attn = Attention(width, num_heads, qkv_bias)
        self.inter_norm = layer_norm(width) if inter else None
        self.inter_attn = attention(shared == "all") if inter else None
        self.interact_norm = layer_norm(width) if interact != "none" else None
        self.interact_context_norm = layer_norm(width) if interact == "cross" else None
        self.interact_attn = attention(shared != "none") if interact != "none" else None
        self.norm2 = layer_norm(width)
        self.mlp = FeedForward(width, mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        rep: Float[Tensor, "b r d"],
        tokens: Float[Tensor, "b r s d"],
        *,
        rep_only: bool = False,
        weights: dict[str, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "b r d"], Float[Tensor, "b r s d"]]:
        """The three stages and the FFN.

        rep_only: compute the representative tokens alone and return `tokens` unchanged; equal
            for `rep`, and all that a classifier of representative tokens reads of the last block.
        weights: a dict to fill with the attention weights of each stage: "local"
            ((b r) a 1+s 1+s), "inter" (b a r r), "interact" (b a (r s) r).
        """
        if rep_only and self.interact_kind == "self":
            rep_only = False  # there stage 3 changes the representative tokens as well
        rep, tokens = self._local(rep, tokens, rep_only, weights)
        rep = self._inter(rep, weights)
        if not rep_only:
            rep, tokens = self._interact(rep, tokens, weights)
        return self._feed_forward(rep, tokens, rep_only)

    def _local(
        self, rep: Tensor, tokens: Tensor, rep_only: bool, weights: dict[str, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        if self.local_context_norm is not None:
            b, r, s, d = tokens.shape
            query = rep.reshape(b * r, 1, d)
            context = self.local_context_norm(tokens.reshape(b * r, s, d))
            update = _attend("local", self.local_attn, self.local_norm(query), context, weights)
            return rep + self.drop_path(update).view(b, r, d), tokens
        return self._within_regions("local", self.local_attn, self.local_norm, rep, tokens,
                                    rep_only, weights)  # fmt: skip

    def _within_regions(
        self,
        stage: str,
        attn: Attention,
        norm: nn.LayerNorm,
        rep: Tensor,
        tokens: Tensor,
        rep_only: bool,
        weights: dict[str, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        b, r, _, d = tokens.shape
        z = torch.cat([rep.unsqueeze(2), tokens], 2).flatten(0, 1)
        normed = norm(z)
        if rep_only:
            update = _attend(stage, attn, normed[:, :1], normed, weights)
            return rep + self.drop_path(update).view(b, r, d), tokens
        z = z + self.drop_path(_attend(stage, attn, normed, None, weights))
        z = z.unflatten(0, (b, r))
        return z[:, :, 0], z[:, :, 1:]

    def _inter(self, rep: Tensor, weights: dict[str, Tensor] | None) -> Tensor:
        if self.inter_attn is None or self.inter_norm is None:
            return rep
        update = _attend("inter", self.inter_attn, self.inter_norm(rep), None, weights)
        return rep + self.drop_path(update)

    def _interact(
        self, rep: Tensor, tokens: Tensor, weights: dict[str, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        if self.interact_attn is None or self.interact_norm is None:
            return rep, tokens
        if self.interact_context_norm is None:
            return self._within_regions("interact", self.interact_attn, self.interact_norm, rep,
                                        tokens, False, weights)  # fmt: skip
        query = self.interact_norm(tokens).flatten(1, 2)
        context = self.interact_context_norm(rep)
        update = _attend("interact", self.interact_attn, query, context, weights)
        return rep, tokens + self.drop_path(update).view(tokens.shape)

    def _feed_forward(self, rep: Tensor, tokens: Tensor, rep_only: bool) -> tuple[Tensor, Tensor]:
        b, r, _, _ = tokens.shape
        z = rep.unsqueeze(2) if rep_only else torch.cat([rep.unsqueeze(2), tokens], 2)
        z = z.flatten(0, 1)
        z = (z + self.drop_path(self.mlp(self.norm2(z)))).unflatten(0, (b, r))
        return z[:, :, 0], tokens if rep_only else z[:, :, 1:]
