"""Products of tokens with a weight matrix, by the fastest kernel for the device.

On CPUs with AVX-512, float32 products go to oneDNN, which PyTorch itself asks only for lower
precisions: its usual library (MKL) uses half of the width of a processor that is not Intel's
(measured on an AMD EPYC, one core: 97 GFLOP/s against 210). Results are equal up to rounding.
Anything unusual (other devices and types, tensors that do not fit, a tracer that looks on) is
PyTorch's own product, with its answers and its errors.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

HALF_OR_SINGLE = (torch.float32, torch.bfloat16, torch.float16)  # what autocast casts


class Linear(nn.Linear):
    """A linear layer, followed by an exact GELU where asked for."""

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """Applied to the last axis."""
        return linear(x, self.weight, self.bias, gelu=gelu)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """`F.linear`, then an exact GELU if `gelu`; in autocast's precision where that is on."""
    if x.device.type == "cpu" and _fit(x, weight, bias) and not is_watched() and _has_onednn():
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else x.dtype
        if not torch.is_grad_enabled() and dtype in (torch.float32, torch.bfloat16):
            bias = None if bias is None else bias.to(dtype)
            return _onednn(x.to(dtype), weight.to(dtype), bias, gelu)
        if dtype == torch.float32 == x.dtype == weight.dtype:
            return _gelu(_Product.apply(x, weight, bias), gelu)  # type: ignore
    return _gelu(F.linear(x, weight, bias), gelu)  # autocast casts a weight once for all uses


def is_watched() -> bool:
    """Whether something looks on that knows PyTorch's own operators only.

    Tracers, compilers and `torch.func`; forward derivatives; counters of FLOPs and of memory.
    """
    try:
        return (
            torch.compiler.is_compiling()
            or torch.jit.is_tracing()  # type: ignore
            or forward_ad._current_level >= 0
            or torch._C._are_functorch_transforms_active()
            or torch._C._len_torch_dispatch_stack() > 0
        )
    except AttributeError:  # a PyTorch that cannot tell
        return True


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            _product(grad, weight.t()) if for_x else None,
            _product(rows.t(), x.reshape(-1, x.shape[-1]).t()) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )


def _product(x: Tensor, weight: Tensor) -> Tensor:
    # Gradients are followed here in second derivatives only.
    if torch.is_grad_enabled():
        return _Product.apply(x, weight, None)  # type: ignore
    return _onednn(x, weight)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    after, algorithm = ("gelu", "none") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], algorithm)


def _gelu(x: Tensor, wanted: bool) -> Tensor:
    return F.gelu(x) if wanted else x


def _fit(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether these are plain matrices that fit each other; oneDNN does not look."""
    shapes_fit = x.numel() > 0 and weight.ndim == 2 and x.shape[-1:] == weight.shape[1:]
    parts = (weight,) if bias is None else (weight, bias)
    return (
        shapes_fit
        and (bias is None or bias.shape == weight.shape[:1])
        and x.layout == weight.layout == torch.strided
        and type(x) in (Tensor, nn.Parameter)  # others stand for something: quantised, shared out
        and all(type(p) in (Tensor, nn.Parameter) and p.device == x.device for p in parts)
        and all(_goes_with(p.dtype, x.dtype) for p in parts)
    )


def _goes_with(one: torch.dtype, other: torch.dtype) -> bool:
    if torch.is_autocast_enabled("cpu"):
        return one in HALF_OR_SINGLE and other in HALF_OR_SINGLE
    return one == other


@lru_cache(maxsize=1)
def _has_onednn() -> bool:
    """Whether oneDNN is there with AVX-512, and right.

    It is called by the name that torch.compile uses (in PyTorch 2.6 to 2.15 at least), which is
    no promise: a small product tells.
    """
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    x, weight = torch.arange(6.0).view(2, 3) / 6, torch.arange(12.0).view(4, 3) / 12 - 0.5
    bias = torch.arange(4.0)
    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            found = _onednn(x, weight, bias, gelu=True)
            return torch.allclose(found, F.gelu(x @ weight.t() + bias), atol=1e-5)
    except (AttributeError, RuntimeError, TypeError):
        return False
