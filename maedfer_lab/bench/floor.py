"""The floor of a model: its matrix products alone, and the fastest that the device multiplies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import Timer

Multiply = Callable[[Tensor, Tensor, Tensor], object]
PEAK_SIDE = 8192  # of the square matrices by which a GPU's peak is measured


class Operand(NamedTuple):
    """A matrix, or a batch of them, as it lies in memory; `weight` numbers those of the model."""

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
        elif name.startswith("convolution"):
            backward = name == "convolution_backward"
            made, weight = (args[0], args[2]) if backward else (out, args[1])
            rows, width, cube = made.numel() // made.shape[1], made.shape[1], weight[0].numel()
            self._add(made.dtype, (), (width, rows, cube) if backward else (rows, cube, width))
        elif "scaled_dot_product" in name:
            backward = "backward" in name
            q, k = args[1:3] if backward else args[:2]
            n, m, width = q.shape[-2], k.shape[-2], q.shape[-1]
            sizes = [(n, width, m), (n, m, width)]
            if backward:  # of the weights, the values, the queries and the keys
                sizes += [(m, n, width), (m, n, width)]
            self._add(q.dtype, (math.prod(q.shape[:-2]),), *sizes)
        return out

    def _number(self, x: Tensor) -> int:
        return self._weights.get(x.untyped_storage().data_ptr(), 0)

    def _note(self, a: Tensor, b: Tensor) -> None:
        # A stride of 0 repeats what lies once in memory; such a matrix is made in full.
        whole = [contiguous(tuple(x.shape), x.dtype).stride if 0 in x.stride() else x.stride()
                 for x in (a, b)]  # fmt: skip
        self.found.append(Product(*(
            Operand(tuple(x.shape), tuple(stride), x.dtype, self._number(x))
            for x, stride in zip((a, b), whole, strict=True)
        )))  # fmt: skip

    def _add(self, dtype: torch.dtype, batch: tuple[int, ...], *sizes: tuple[int, ...]) -> None:
        for n, inner, m in sizes:
            shapes = ((*batch, n, inner), (*batch, inner, m))
            self.found.append(Product(*(contiguous(shape, dtype) for shape in shapes)))


def contiguous(shape: tuple[int, ...], dtype: torch.dtype, weight: int = 0) -> Operand:
    """A matrix without gaps."""
    return Operand(shape, torch.empty(shape, device="meta").stride(), dtype, weight)


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
    its own, as in the model; other matrices of one shape share theirs, which is kinder to the
    caches than any model can be: a floor.
    """
    generator = torch.Generator(device).manual_seed(0)
    pool: dict[Operand, Tensor] = {}

    def tensor(operand: Operand) -> Tensor:
        if operand not in pool:
            shape, stride, dtype, _ = operand
            x = torch.empty_strided(shape, stride, dtype=dtype, device=device)
            pool[operand] = x.uniform_(-1, 1, generator=generator)
        return pool[operand]

    fastest: dict[Product, Multiply] = {}
    steps = []
    for a, b in products:
        out = contiguous((*a.shape[:-1], b.shape[-1]), a.dtype, weight=-1)
        matrices = tensor(a), tensor(b), tensor(out)
        alike = Product(a._replace(weight=0), b._replace(weight=0))
        if alike not in fastest:
            fastest[alike] = mm_or_bmm if only_torch else _fastest(*matrices)
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
        return mm_or_bmm
    taken = {way: [] for way in (mm_or_bmm, mm_by_onednn)}
    for _ in range(3):
        for way, times in taken.items():
            timer = Timer("way(a, b, out)", globals={"way": way, "a": a, "b": b, "out": out},
                          num_threads=torch.get_num_threads())  # fmt: skip
            with torch.no_grad():
                times.append(timer.timeit(1).median)
    return min(taken, key=lambda way: min(taken[way]))


def mm_or_bmm(a: Tensor, b: Tensor, out: Tensor) -> object:
    """PyTorch's product."""
    return (torch.mm if out.ndim == 2 else torch.bmm)(a, b, out=out)


def mm_by_onednn(a: Tensor, b: Tensor, out: Tensor) -> object:
    """oneDNN's product, which makes its own memory."""
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


@lru_cache(maxsize=4)
def peak_macs(device: torch.device, dtype: torch.dtype, side: int = PEAK_SIDE) -> float:
    """Multiply-adds a second that the device reaches on one large square product."""
    product = Product(*(contiguous((side, side), dtype, weight) for weight in (0, 1)))
    run = replay([product], device)
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return product.macs / min(timer.timeit(1).median for _ in range(10))
