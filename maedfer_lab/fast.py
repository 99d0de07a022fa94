"""CPU kernels, put into a built model; the method itself does not depend on them.

`speed_up(model)` changes two things, and results only by rounding:

- Products with a weight matrix go to oneDNN where the CPU has AVX-512: PyTorch's usual MKL
  uses half of the width of an AMD processor (EPYC, one core: 97 GFLOP/s against 210).
- Attention from many tokens to few is re-associated ("folded" order). Where a thousand
  tokens read eight, their queries need not be computed: (x W_q) K' = x (W_q K'), and the matrix in
  brackets is small. Likewise (A V) W_o = A (V W_o). This saves a ninth of LGI-Former's products
  (every count in this package is of the published ones).

Anything unusual (other devices and types, tensors that do not fit, a tracer) uses PyTorch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad

from maedfer_lab.config import uses_fast_kernels
from maedfer_lab.method.attention import Attention, FeedForward
from maedfer_lab.method.models import TubeletEmbed

HALF_OR_SINGLE = (torch.float32, torch.bfloat16, torch.float16)  # what autocast casts
Model = TypeVar("Model", bound=nn.Module)


def speed_up(model: Model) -> Model:
    """Give a model's layers CPU kernels, in place, and return it; MAEDFER_FAST=0 disables this.

    Only their classes change; the model can be copied, pickled and moved.
    """
    for module in model.modules() if uses_fast_kernels() else ():
        module.__class__ = FAST.get(type(module), type(module))
    return model


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """`F.linear`, then an exact GELU if `gelu`; in autocast's precision if that is on."""
    if x.device.type == "cpu" and _fit(x, weight, bias) and not is_watched() and has_onednn():
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if not torch.is_grad_enabled() and dtype in (torch.float32, torch.bfloat16):
            bias = None if bias is None else bias.to(dtype)
            return _onednn(x.to(dtype), weight.to(dtype), bias, gelu)
        if dtype == torch.float32 == x.dtype == weight.dtype:
            out = _Product.apply(x, weight, bias)
            return F.gelu(out) if gelu else out  # type: ignore
    out = F.linear(x, weight, bias)  # autocast casts a weight once for all uses
    return F.gelu(out) if gelu else out


class FastLinear(nn.Linear):
    """A linear layer by `linear`, optionally followed by an exact GELU."""

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """Applied to the last axis."""
        return linear(x, self.weight, self.bias, gelu=gelu)


class FastFeedForward(FeedForward):
    """GELU within the first product."""

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """As `FeedForward`."""
        fused = type(self.fc1) is FastLinear
        return self.fc2(self.fc1(x, gelu=True)) if fused else super().forward(x)


class FastTubeletEmbed(TubeletEmbed):
    """The embedding by `linear`."""

    product = staticmethod(linear)


class FastAttention(Attention):
    """Attention by `linear`, in folded order if that is cheaper."""

    product = staticmethod(linear)

    def forward(
        self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b k d"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """As `Attention`."""
        if context is not None and self._may_fold(x, context):
            return self._folded(x, *self.heads(context, 1, 3))
        if x.device.type != "cpu":
            return super().forward(x, context)
        q, k, v = self.project(x, context)
        if q.dtype != torch.bfloat16:
            return self.merge(F.scaled_dot_product_attention(q, k, v))
        # There the fused kernel is slow: measured, 2 times forward and 3 times backward.
        weights = (q * q.shape[-1] ** -0.5).flatten(0, 1) @ k.flatten(0, 1).transpose(1, 2)
        read = weights.softmax(-1) @ v.flatten(0, 1)
        return self.merge(read.unflatten(0, q.shape[:2]))

    def _may_fold(self, x: Tensor, context: Tensor) -> bool:
        """True if the folded order is much cheaper and bypasses no hook or wrapper of `proj`."""
        (many, width), few = x.shape[1:], context.shape[1]
        hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")
        return (
            5 * few * (self.num_heads * many + width) < many * width
            and x.device.type == "cpu"
            and not is_watched()
            and type(self.proj) in (nn.Linear, FastLinear)
            and not any(getattr(self.proj, name, None) for name in hooks)
        )

    def _folded(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of many `x` to few keys and values (b a k e)."""
        b, a, few, e = k.shape
        query, k = self.qkv.weight[: x.shape[2]].view(a, e, -1), k * e**-0.5
        keys = torch.einsum("bake,aed->bakd", k, query).flatten(1, 2)
        values = torch.einsum("bake,dae->bakd", v, self.proj.weight.view(-1, a, e)).flatten(1, 2)
        scores = keys @ x.transpose(1, 2)
        if self.q_bias is not None:
            of_bias = torch.einsum("bake,ae->bak", k, self.q_bias.view(a, e))
            scores = scores + of_bias.reshape(b, a * few, 1)
        # Tokens last: a softmax over neighbours in memory, eight at a time, is slower than products
        weights = scores.view(b, a, few, x.shape[1]).softmax(2).flatten(1, 2)
        return torch.baddbmm(self.proj.bias, weights.transpose(1, 2), values)


FAST: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: FastLinear, FeedForward: FastFeedForward, Attention: FastAttention,
    TubeletEmbed: FastTubeletEmbed,
}  # fmt: skip


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore
        (x, weight), (for_x, for_weight, for_bias) = ctx.saved_tensors, ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            linear(grad, weight.t()) if for_x else None,
            linear(rows.t(), x.reshape(-1, x.shape[-1]).t()) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    after, algorithm = ("gelu", "none") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], algorithm)


@lru_cache(maxsize=1)
def has_onednn() -> bool:
    """Whether oneDNN is available with AVX-512, and correct.

    Its name is internal to torch.compile (PyTorch 2.6 to 2.15 at least), so a product is tested.
    """
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    x, weight = torch.arange(6.0).view(2, 3) / 6, torch.arange(12.0).view(4, 3) / 12 - 0.5
    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            found = _onednn(x, weight, torch.ones(4), gelu=True)
            return torch.allclose(found, F.gelu(x @ weight.t() + 1), atol=1e-5)
    except (AttributeError, RuntimeError, TypeError):
        return False


def _fit(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether these are plain matrices of matching shapes, which oneDNN does not check."""
    types = HALF_OR_SINGLE if torch.is_autocast_enabled("cpu") else (x.dtype,)
    return (
        x.numel() > 0
        and weight.ndim == 2
        and x.shape[-1:] == weight.shape[1:]
        and (bias is None or bias.shape == weight.shape[:1])
        and all(
            type(part) in (Tensor, nn.Parameter)  # others stand for something: quantised, split
            and part.dtype in types
            and part.device == x.device
            and part.layout == torch.strided
            for part in (x, weight, *(() if bias is None else (bias,)))
        )
    )


def is_watched() -> bool:
    """Whether a tracer, compiler, transform, forward derivative or counter is active."""
    try:
        return (
            torch.compiler.is_compiling()
            or torch.jit.is_tracing()  # type: ignore
            or forward_ad._current_level >= 0
            or torch._C._are_functorch_transforms_active()
            or torch._C._len_torch_dispatch_stack() > 0
        )
    except AttributeError:  # not available in this PyTorch
        return True
