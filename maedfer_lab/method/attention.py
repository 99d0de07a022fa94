"""Attention, the LGI-Former block with its three stages, and the plain ViT block.

Every block can also return its attention weights: the same code with an explicit softmax.
`formulas` has the same equations as slow, readable loops.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6
Weights = dict[str, Tensor]  # by stage


def layer_norm(width: int) -> nn.LayerNorm:
    """LayerNorm with the reference's epsilon, 1e-6."""
    return nn.LayerNorm(width, eps=LAYER_NORM_EPS)


class Attention(nn.Module):
    """Multi-head attention from `x` to `context` (by default to itself).

    One matrix `qkv` projects to queries, keys and values. Keys have no bias: a constant added to
    all keys cannot change a softmax.
    """

    product = staticmethod(F.linear)  # `fast` has another kernel for it

    def __init__(self, width: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.few = 0  # keys up to which it compiles to sums; fused kernels use tiles of 64
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if qkv_bias else None
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b k d"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Fused attention; equal to `with_weights` up to rounding."""
        q, k, v = self.project(x, context)
        if k.shape[2] <= self.few and torch.compiler.is_compiling():
            scores = (q.unsqueeze(3) * q.shape[-1] ** -0.5 * k.unsqueeze(2)).sum(-1)
            return self.merge((scores.softmax(-1).unsqueeze(4) * v.unsqueeze(2)).sum(3))
        return self.merge(F.scaled_dot_product_attention(q, k, v))

    def with_weights(
        self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b k d"] | None = None
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b a n k2"]]:
        """The same output, with the attention weights (each row sums to 1)."""
        q, k, v = self.project(x, context)
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        return self.merge(weights @ v), weights

    def project(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        """Queries of `x`, keys and values of `context` (by default of `x`), by head."""
        if context is None:
            return self.heads(x, 0, 3)
        return *self.heads(x, 0, 1), *self.heads(context, 1, 3)

    def heads(self, x: Tensor, first: int, end: int) -> tuple[Float[Tensor, "b a n e"], ...]:
        """Queries (0), keys (1) and values (2) of `x`, from `first` to before `end`."""
        width, bias = x.shape[-1], None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias)[first:end])
        out = self.product(x, self.qkv.weight[first * width : end * width], bias)
        return rearrange(out, "b n (p a e) -> p b a n e", p=end - first, a=self.num_heads).unbind()

    def merge(self, x: Float[Tensor, "b a n e"]) -> Float[Tensor, "b n d"]:
        """The concatenated heads through the output projection."""
        return self.proj(rearrange(x, "b a n e -> b n (a e)"))


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, ratio: float = 4.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, int(width * ratio))
        self.fc2 = nn.Linear(int(width * ratio), width)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Applied to each token separately."""
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Drop a residual branch for whole rows of the first axis, in training (stochastic depth)."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate, self.is_on = rate, rate > 0
        self.register_buffer("kept", torch.tensor(1 - rate), persistent=False)

    kept: Tensor

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Kept rows are divided by the keep probability."""
        if not self.training or not self.is_on:
            return x
        if torch.compiler.is_compiling():  # then blocks of all rates share compiled code
            return x * (torch.rand_like(x[:, :1, :1], dtype=torch.float32) < self.kept) / self.kept
        keep = x.new_empty(x.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return x * keep.div_(1 - self.rate)


def _attend(
    block: Any, stage: str, x: Tensor, query: Tensor, context: Tensor | None,
    weights: Weights | None,
) -> Tensor:  # fmt: skip
    """`x` plus the attention of `query` to `context`; stores its weights on request."""
    attn = getattr(block, "attn" if stage == "joint" else f"{stage}_attn")
    if weights is None:
        update = attn(query, context)
    else:
        update, weights[stage] = attn.with_weights(query, context)
    return x + block.drop_path(update).view(x.shape)


class ViTBlock(nn.Module):
    """Pre-norm transformer block with joint attention: VideoMAE's, and the decoder's."""

    def __init__(
        self, width: int, num_heads: int, mlp_ratio: float = 4.0, qkv_bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm1 = layer_norm(width)
        self.attn = Attention(width, num_heads, qkv_bias)
        self.norm2 = layer_norm(width)
        self.mlp = FeedForward(width, mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Float[Tensor, "b n d"], *, last: int | None = None, weights: Weights | None = None
    ) -> Float[Tensor, "b n2 d"]:
        """Attention, then FFN.

        last: compute and return only that many tokens at the end of the sequence.
        weights: a dict to fill with the attention weights, "joint" (b a n n).
        """
        query, context = self.norm1(x), None
        if last is not None:
            x, query, context = x[:, -last:], query[:, -last:], query
        x = _attend(self, "joint", x, query, context, weights)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class LGIBlock(nn.Module):
    """Local-global interaction block of LGI-Former (Sun et al., section 3.2).

    Per region i with tokens X_i and representative token s_i:

    1. local: self-attention inside [s_i; X_i]  ("cross": s_i alone gathers from X_i)
    2. inter: self-attention among s_1 ... s_M
    3. interact: cross-attention from every token to s_1 ... s_M  ("self": stage 1 once more)
    4. one FFN for tokens and representative tokens

    Each stage is pre-norm with a residual. Drop path acts per region in stages 1 and 4 and per
    clip in stages 2 and 3, as in the official code.
    """

    def __init__(
        self, width: int, num_heads: int, mlp_ratio: float = 4.0, qkv_bias: bool = True,
        drop_path: float = 0.0, *, local: str = "self", inter: bool = True,
        interact: str = "cross", shared: str = "none",
    ) -> None:  # fmt: skip
        super().__init__()

        def attention(share: bool) -> Attention:
            return self.local_attn if share else Attention(width, num_heads, qkv_bias)

        self.interact_kind = interact
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
        self, z: Float[Tensor, "b r k d"], *, rep_only: bool = False, weights: Weights | None = None
    ) -> Float[Tensor, "b r k2 d"]:
        """The three stages and the FFN.

        z: [s_i; X_i] of every region i, the format between blocks: k is 1 + the region's tokens.
        rep_only: compute and return only s_i, (b r 1 d): all that a classifier of
            representative tokens reads from the last block.
        weights: a dict to fill with the attention weights of each stage: "local"
            ((b r) a k k), "inter" (b a r r), "interact" (b a (r (k-1)) r).
        """
        if rep_only and self.interact_kind == "self":  # there stage 3 changes s_i as well
            return self.forward(z, weights=weights)[:, :, :1]
        if self.local_context_norm is None:
            z = self._within_regions("local", z, self.local_norm(z), rep_only, weights)
        else:
            rep, tokens = z.split([1, z.shape[2] - 1], 2)
            context = self.local_context_norm(tokens).flatten(0, 1)
            query = self.local_norm(rep).flatten(0, 1)
            rep = _attend(self, "local", rep, query, context, weights)
            z = rep if rep_only else torch.cat([rep, tokens], 2)

        rep, tokens = z[:, :, 0], z[:, :, 1:]
        if self.inter_norm is not None:
            rep = _attend(self, "inter", rep, self.inter_norm(rep), None, weights)

        norm, context_norm = self.interact_norm, self.interact_context_norm
        if norm is not None and context_norm is not None and not rep_only:
            query, context = norm(tokens).flatten(1, 2), context_norm(rep)
            tokens = _attend(self, "interact", tokens, query, context, weights)
        z = rep.unsqueeze(2) if rep_only else torch.cat([rep.unsqueeze(2), tokens], 2)
        if norm is not None and context_norm is None:
            z = self._within_regions("interact", z, norm(z), False, weights)

        return z + self.drop_path(self.mlp(self.norm2(z.flatten(0, 1)))).view(z.shape)

    def _within_regions(
        self, stage: str, z: Tensor, normed: Tensor, rep_only: bool, weights: Weights | None
    ) -> Tensor:
        """Self-attention inside every [s_i; X_i]."""
        query, context = normed.flatten(0, 1), None
        if rep_only:
            z, query, context = z[:, :, :1], query[:, :1], query
        return _attend(self, stage, z, query, context, weights)

    def forward_separate(
        self, rep: Float[Tensor, "b r d"], tokens: Float[Tensor, "b r s d"], **options: Any
    ) -> tuple[Float[Tensor, "b r d"], Float[Tensor, "b r s d"]]:
        """`forward` of S and X as two tensors; with `rep_only` X is returned unchanged."""
        z = self(torch.cat([rep.unsqueeze(2), tokens], 2), **options)
        return z[:, :, 0], z[:, :, 1:] if z.shape[2] > 1 else tokens
