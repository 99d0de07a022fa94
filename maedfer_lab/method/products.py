"""Products of tokens with a weight matrix, by the fastest kernel for the device.

On CPUs with AVX-512, float32 products go to oneDNN, which PyTorch itself asks only for lower
precisions: its usual library (MKL) uses half of the width of a processor that is not Intel's
(measured on an AMD EPYC, one core: 97 GFLOP/s against 210). Results are equal up to rounding.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """A linear layer, followed by an exact GELU where asked for."""

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """Applied to the last axis."""
        return linear(x, self.weight, self.bias, gelu=gelu)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """`F.linear`, then an exact GELU if `gelu`; in autocast's precision where that is on."""
    if not _takes_onednn(x):
        return _gelu(F.linear(x, weight, bias), gelu)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if not torch.is_grad_enabled() and dtype in (torch.float32, torch.bfloat16):
        bias = None if bias is None else bias.to(dtype)
        return _product(x.to(dtype), weight.to(dtype), bias, gelu)
    if dtype == torch.float32:
        return _gelu(_Linear.apply(x, weight, bias), gelu)  # type: ignore
    return _gelu(F.linear(x, weight, bias), gelu)  # autocast casts a weight once for all uses


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            _product(grad, weight.t()) if for_x else None,
            _product(rows.t(), x.reshape(-1, x.shape[-1]).t()) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    after, algorithm = ("gelu", "none") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], algorithm)


def _gelu(x: Tensor, wanted: bool) -> Tensor:
    return F.gelu(x) if wanted else x


def _takes_onednn(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.numel() > 0 and _has_onednn()


@lru_cache(maxsize=1)
def _has_onednn() -> bool:
    """Whether oneDNN is there under the name that torch.compile calls it by, with AVX-512."""
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return (
        wide
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
