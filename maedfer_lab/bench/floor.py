"""The floor of a model: its matrix products alone, and the fastest that the device multiplies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from maedfer_lab.bench.timing import Stopwatch

Multiply = Callable[[Tensor, Tensor, Tensor], object]
PEAK_SIDE = 8192  # of the square matrices by which a GPU's peak is measured


class Operand(NamedTuple):
    """A matrix, or a batch of them, as it lies in memory; weights are told apart by `weight`."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    weight: int = 0


class Product(NamedTuple):
    """One matrix product (n k) (k m), or a batch of them."""

    a: Operand
    b: Operand

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return math.prod(self.a.shape) * self.b.shape[-1]


class Products(TorchDispatchMode):
    """Notes every matrix product of what runs while it is active, with shapes, strides and types.

    Fused attention counts as the products that it cannot do without: two, and four in the
    backward pass. A convolution whose kernel is its stride counts as the product that it is.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: list[Product] = []
        self._weights = {p.untyped_storage().data_ptr(): i + 1
                         for i, p in enumerate(model.parameters())}  # fmt: skip
        self._kept: list[Tensor] = []  # casts of weights, so that their memory is not given anew

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and note its products."""
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "_to_copy" and (number := self._number(args[0])):  # autocast
            self._weights[out.untyped_storage().data_ptr()] = number
            self._kept.append(out)
        elif name in ("mm", "bmm"):
            self._note(*args[:2])
        elif name in ("addmm", "baddbmm"):
            self._note(*args[1:3])
        elif name == "_linear_pointwise":  # oneDNN's
            x, weight = args[:2]
            self._note(x.reshape(-1, x.shape[-1]), weight.t())
        elif name == "convolution":
            self._convolution(out, args[1])
        elif name == "convolution_backward":
            self._convolution(args[0], args[2], is_backward=True)
        elif "scaled_dot_product" in name:
            self._attention(args, is_backward="backward" in name)
        return out

    def _number(self, x: Tensor) -> int:
        return self._weights.get(x.untyped_storage().data_ptr(), 0)

    def _note(self, a: Tensor, b: Tensor) -> None:
        self.found.append(Product(self._operand(a), self._operand(b)))

    def _operand(self, x: Tensor) -> Operand:
        # A stride of 0 repeats what lies once in memory; such a matrix is made in full.
        stride = x.stride() if 0 not in x.stride() else torch.empty(x.shape, device="meta").stride()
        return Operand(tuple(x.shape), tuple(stride), x.dtype, self._number(x))

    def _attention(self, args: Any, is_backward: bool) -> None:
        q, k = args[1:3] if is_backward else args[:2]
        num = math.prod(q.shape[:-2])
        queries, keys, width = q.shape[-2], k.shape[-2], q.shape[-1]
        sizes = [(queries, width, keys), (queries, keys, width)]
        if is_backward:  # of the weights, the values, the queries and the keys
            sizes += [(keys, queries, width), (keys, queries, width)]
        for n, inner, m in sizes:
            self.found.append(
                Product(
                    *(_contiguous((num, *shape), q.dtype) for shape in ((n, inner), (inner, m)))
                )
            )

    def _convolution(self, out: Tensor, weight: Tensor, is_backward: bool = False) -> None:
        rows, width, cube = out.numel() // out.shape[1], out.shape[1], weight[0].numel()
        shapes = ((width, rows), (rows, cube)) if is_backward else ((rows, cube), (cube, width))
        self.found.append(Product(*(_contiguous(shape, out.dtype) for shape in shapes)))


def _contiguous(shape: tuple[int, ...], dtype: torch.dtype) -> Operand:
    return Operand(shape, torch.empty(shape, device="meta").stride(), dtype)


def products_of(work: Callable[[], object], model: nn.Module) -> list[Product]:
    """The matrix products of one run of `work`, in order."""
    with Products(model) as noted:
        work()
    return noted.found


def replay(
    products: Iterable[Product], device: torch.device, *, only_torch: bool = False
) -> Callable[[], None]:
    """A function that does these products and nothing else, into memory that is there already.

    Each product is done by the library that is quickest for its shape. Every weight has memory of
    its own, as in the model; other matrices of one shape share theirs,
    which is kinder to the caches than any model can be: a floor.
    """
    generator = torch.Generator(device).manual_seed(0)
    pool: dict[Any, Tensor] = {}

    def tensor(operand: Operand) -> Tensor:
        if operand not in pool:
            x = torch.empty_strided(operand.shape, operand.stride, dtype=operand.dtype,
                                    device=device)  # fmt: skip
            pool[operand] = x.uniform_(-1, 1, generator=generator)
        return pool[operand]

    fastest: dict[Product, Multiply] = {}
    steps = []
    for product in products:
        a, b = product
        out = tensor(_contiguous((*a.shape[:-1], b.shape[-1]), a.dtype)._replace(weight=-1))
        matrices = tensor(a), tensor(b), out
        alike = Product(*(operand._replace(weight=0) for operand in product))
        if alike not in fastest:
            fastest[alike] = _mm_or_bmm if only_torch else _fastest(*matrices)
        steps.append((fastest[alike], *matrices))

    def run() -> None:
        with torch.no_grad():
            for multiply, a, b, out in steps:
                multiply(a, b, out)

    return run


def _fastest(a: Tensor, b: Tensor, out: Tensor) -> Multiply:
    """Of PyTorch's product and, on a CPU, oneDNN's: the one that was quicker in a few runs."""
    onednn = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if out.ndim == 3 or out.device.type != "cpu" or not onednn:
        return _mm_or_bmm
    ways: list[Multiply] = [_mm_or_bmm, _onednn]
    taken = [[_seconds(way, a, b, out) for way in ways] for _ in range(4)][1:]
    return ways[int(np.min(taken, 0).argmin())]


def _mm_or_bmm(a: Tensor, b: Tensor, out: Tensor) -> object:
    return (torch.mm if out.ndim == 2 else torch.bmm)(a, b, out=out)


def _onednn(a: Tensor, b: Tensor, out: Tensor) -> object:
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


def _seconds(multiply: Multiply, a: Tensor, b: Tensor, out: Tensor) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        multiply(a, b, out)
    return time.perf_counter() - start


def peak_macs(watch: Stopwatch, dtype: torch.dtype, side: int = PEAK_SIDE) -> float:
    """Multiply-adds a second that the device reaches on one large square product."""
    square = _contiguous((side, side), dtype)
    product = Product(square, square._replace(weight=1))
    run = replay([product], watch.device)
    run()
    return product.macs / min(watch.once(run) for _ in range(10))
