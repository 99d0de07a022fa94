"""A model's operators and matrix products, and the fastest time for the latter."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import Timer

Multiply = Callable[[Tensor, Tensor, Tensor], object]
# Operators that make memory or a handle and compute nothing.
FREE = {"detach", "alias", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty",
        "new_empty_strided", "_unsafe_view", "_record_function_enter_new",
        "_record_function_exit"}  # fmt: skip


class Operators(TorchDispatchMode):
    """Counts operators while it is active, below autograd and autocast, as launched on a GPU.

    names: how often each. Views and empty memory do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and count it."""
        name = func.overloadpacket.__name__
        self.names[name] += not func.is_view and name not in FREE
        return func(*args, **(kwargs or {}))


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
    """Records every matrix product while it is active, with shapes, strides and types.

    Fused attention counts as its minimal products: two, and four in the backward pass. A
    convolution whose kernel is its stride counts as one product.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: list[Product] = []
        self._weights = {_place(p): i + 1 for i, p in enumerate(model.parameters())}
        self._kept: list[Tensor] = []  # casts of weights, so that their addresses stay theirs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and note its products."""
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "_to_copy" and (number := self._weights.get(_place(args[0]))):  # autocast
            self._weights[_place(out)] = number
            self._kept.append(out)
        elif name in ("mm", "bmm", "addmm", "baddbmm"):
            self._note(*args[name.endswith(("addmm", "addbmm")) :][:2])
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
            if backward:  # gradients of weights, values, queries and keys
                sizes += [(m, n, width), (m, n, width)]
            self._add(q.dtype, (math.prod(q.shape[:-2]),), *sizes)
        return out

    def _note(self, *pair: Tensor) -> None:
        # A stride of 0 repeats what lies once in memory; such a matrix is made in full.
        self.found.append(Product(*(
            contiguous(tuple(x.shape), x.dtype, number) if 0 in x.stride()
            else Operand(tuple(x.shape), x.stride(), x.dtype, number)
            for x in pair for number in [self._weights.get(_place(x), 0)]
        )))  # fmt: skip

    def _add(self, dtype: torch.dtype, batch: tuple[int, ...], *sizes: tuple[int, ...]) -> None:
        for n, inner, m in sizes:
            shapes = ((*batch, n, inner), (*batch, inner, m))
            self.found.append(Product(*(contiguous(shape, dtype) for shape in shapes)))


def _place(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


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
    """A function that computes only these products, into allocated memory.

    Each uses the library that is fastest for its shape. Every weight has its own memory, as in
    the model; other matrices of one shape share theirs, which uses caches better than any model
    could: a floor.
    """
    generator = torch.Generator(device).manual_seed(0)

    @cache
    def tensor(operand: Operand) -> Tensor:
        shape, stride, dtype, _ = operand
        x = torch.empty_strided(shape, stride, dtype=dtype, device=device)
        return x.uniform_(-1, 1, generator=generator)

    fastest: dict[Product, Multiply] = {}
    steps = []
    for a, b in products:
        out = contiguous((*a.shape[:-1], b.shape[-1]), a.dtype, weight=-1)
        matrices = tensor(a), tensor(b), tensor(out)
        alike = Product(a._replace(weight=0), b._replace(weight=0))
        if alike not in fastest:
            fastest[alike] = _by_torch if only_torch else _fastest(*matrices)
        steps.append((fastest[alike], *matrices))

    def run() -> None:
        with torch.no_grad():
            for multiply, a, b, out in steps:
                multiply(a, b, out)

    return run


def _fastest(a: Tensor, b: Tensor, out: Tensor) -> Multiply:
    """PyTorch's product or, on a CPU, oneDNN's: the faster one in a few runs."""
    onednn = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if out.ndim == 3 or out.device.type != "cpu" or not onednn:
        return _by_torch
    taken: dict[Multiply, float] = dict.fromkeys((_by_torch, _by_onednn), math.inf)
    with torch.no_grad():
        for way in [*taken] * 4:  # the first of each warms up
            began = time.perf_counter()
            way(a, b, out)
            taken[way] = min(taken[way], time.perf_counter() - began)
    return min(taken, key=taken.__getitem__)


def _by_torch(a: Tensor, b: Tensor, out: Tensor) -> object:
    return (torch.mm if out.ndim == 2 else torch.bmm)(a, b, out=out)


def _by_onednn(a: Tensor, b: Tensor, out: Tensor) -> object:  # makes its own memory
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


@lru_cache(maxsize=4)
def peak_macs(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-adds a second that the device reaches on one square product of side 8,192."""
    product = Product(*(contiguous((8192, 8192), dtype, weight) for weight in (0, 1)))
    timer = Timer("run()", globals={"run": replay([product], device)},
                  num_threads=torch.get_num_threads())  # fmt: skip
    return product.macs / min(timer.timeit(1).median for _ in range(10))
