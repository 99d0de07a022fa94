"""What a step on accelerators adds to one on a CPU: compiling, capture, prefetch, and sharding.

Launching operators is the bottleneck of a step of LGI-Former, not computing them: one operator
casts the weights (`Halved`), blocks are compiled, and the whole can be a CUDA graph. CPUs use none.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain, pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from maedfer_lab.config import choose
from maedfer_lab.method.attention import Attention, LGIBlock, ViTBlock
from maedfer_lab.method.models import Comparison

Compile = Literal["auto", "no", "block", "whole", "graph"]
WARM_UP = 3  # steps before a capture: libraries choose their kernels, blocks are compiled
KINDS = 64  # compiled versions of a block at most: by length, precision, rate of drop path

Losses = Mapping[str, Tensor]
Replay = Callable[[], object]
Recorded = tuple[list[Tensor], Replay, Losses, list[Any]]  # inputs' memory, start, losses, grads


def choose_compile(
    wanted: Compile | bool, device: torch.device, can_capture: bool
) -> Literal["no", "block", "whole", "graph"]:
    """How a run's step is compiled; "auto" chooses by device.

    can_capture: no other process and no scaler joins a step, and it takes its batch at once;
    ValueError if a graph is requested without it.
    """
    if isinstance(wanted, bool):
        wanted = "whole" if wanted else "no"
    chosen = choose("compile", wanted, get_args(Compile))
    can_capture = can_capture and device.type == "cuda"
    if chosen == "auto":
        return "no" if device.type != "cuda" else "graph" if can_capture else "block"
    if chosen == "graph" and not can_capture:
        raise ValueError(
            f"compile='graph' needs one process on a CUDA device ({device.type} here), in bf16 or "
            "float32, accumulate=1, and no checkpointing; use 'block'"
        )
    return chosen  # type: ignore[return-value]


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of an encoder and a decoder."""
    return [module for module in model.modules() if isinstance(module, LGIBlock | ViTBlock)]


def compile_blocks(model: nn.Module) -> None:
    """Compile each block, and targets with their loss; those of one kind and size share it."""
    config = torch._dynamo.config
    config.cache_size_limit = max(config.cache_size_limit, KINDS)  # later recompile_limit
    for part in _compiled_parts(model):
        part.compile(dynamic=False)


def uncompile_blocks(model: nn.Module) -> list[tuple[nn.Module, Any]]:
    """Undo `compile_blocks`; returns each part with its compiled call, to put it back."""
    kept = [(part, part._compiled_call_impl) for part in _compiled_parts(model)]
    for part, _ in kept:
        part._compiled_call_impl = None
    return kept


def _compiled_parts(model: nn.Module) -> list[nn.Module]:
    """The blocks, and the comparison with targets of the package's own."""
    others = [m for m in model.modules() if isinstance(m, Comparison) and not m.target.function]
    return [*blocks_of(model), *others]


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Run blocks uncompiled inside, for batches of other sizes than a step's."""
    kept = uncompile_blocks(model)
    try:
        yield
    finally:
        for block, compiled in kept:
            block._compiled_call_impl = compiled


# --- less memory ------------------------------------------------------------------------------


def checkpoint_blocks(model: nn.Module) -> None:
    """Each block keeps its input alone, and computes the rest again in the backward pass."""
    for block in blocks_of(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def sharded(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy of which every process holds its share (FSDP2); a block is gathered when it works.

    By torch itself, since Accelerate shards on no CPU; ValueError for one process or an old
    PyTorch.
    """
    from torch.distributed import get_world_size, is_initialized
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if not is_initialized() or get_world_size() == 1:
        raise ValueError("shard=True needs several processes: torchrun --nproc-per-node 8 ...")
    if device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
        raise ValueError(
            f"shard=True on a CPU needs a later PyTorch than {torch.__version__}, such as 2.15; "
            "leave it out, or use GPUs"
        )
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # none is changed
    mesh, model = init_device_mesh(device.type, (get_world_size(),)), copy.deepcopy(model)
    for part in (*blocks_of(model), model):
        fully_shard(part, mesh=mesh)
    return model


def gathered(state: Any) -> Any:
    """Nested tensors with all shares in one piece, on the CPU. All processes must call it."""
    from torch.distributed.tensor import DTensor

    return tree_map(lambda x: x.full_tensor().cpu() if isinstance(x, DTensor) else x, state)


def split_like(whole: Tensor, part: Tensor) -> Tensor:
    """`whole` in shares as `part` is, if it is in shares and of the same shape."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(part, DTensor) or whole.shape != part.shape:
        return whole
    return distribute_tensor(whole.to(part.device), part.device_mesh, part.placements)


# --- weights in half precision ------------------------------------------------------------------


class _Cast(torch.autograd.Function):
    """Many tensors to a type by one operator, and their gradients back by another."""

    @staticmethod
    def forward(ctx, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:  # type: ignore
        ctx.set_materialize_grads(False)
        ctx.dtype, made = weights[0].dtype, _cast(weights, dtype)
        trained = zip(made, ctx.needs_input_grad[1:], strict=True)
        ctx.mark_non_differentiable(*(half for half, is_trained in trained if not is_trained))
        return made

    @staticmethod
    def backward(ctx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore
        whole = iter(_cast([grad for grad in grads if grad is not None], ctx.dtype))
        return None, *(None if grad is None else next(whole) for grad in grads)


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    made = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(made, list(tensors))  # type: ignore[attr-defined]
    return tuple(made)


class Halved(nn.Module):
    """A model with those weights cast that autocast would cast one by one.

    To be called under autocast to `dtype`: results and gradients are the same, bit for bit.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype
        self.names = [
            f"{name}.{key}" if name else key
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | nn.Conv3d | Attention)
            for key, _ in module.named_parameters(recurse=False)
        ]

    def forward(self, *inputs: Any) -> Any:
        """As the model's."""
        halves = _Cast.apply(self.dtype, *[self.model.get_parameter(name) for name in self.names])
        return functional_call(self.model, dict(zip(self.names, halves, strict=True)), inputs)  # type: ignore


# --- a captured step ------------------------------------------------------------------------------


class CapturedStep:
    """Losses and gradients of a batch, by a graph for each set of sizes (share of hidden tokens).

    compute: batch -> losses, leaving gradients of `model`; it must not wait for the device.
    capture: work -> how to start it again and what it gave; by default a CUDA graph.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Tensor]], Losses],
        model: nn.Module,
        capture: Callable[[Callable[[], Losses]], tuple[Replay, Losses]] | None = None,
    ) -> None:
        self.compute, self.model, self.parameters = compute, model, [*model.parameters()]
        self.capture, self.pool = capture or self._cuda_graph, None
        self.graphs: dict[tuple[Any, ...], Recorded] = {}
        self.failed = False

    def __call__(self, batch: Sequence[Tensor]) -> Losses:
        """Losses, to be read before the next call; gradients are the parameters'."""
        if self.failed:
            return self.compute(batch)
        sizes = tuple((tensor.shape, tensor.dtype) for tensor in batch)
        if sizes not in self.graphs:
            try:
                # A resumed run captures at another step; random state must be the same afterwards.
                with rehearsed(self.model, batch[0].device):
                    self.graphs[sizes] = self._record(batch)
            except RuntimeError as error:
                losses, self.failed = self.compute(batch), True  # its own error is raised here
                warnings.warn(f"a step was not captured, it runs eagerly: {error}", stacklevel=2)
                return losses
        inputs, replay, losses, grads = self.graphs[sizes]
        for held, given in zip(inputs, batch, strict=True):
            held.copy_(given, non_blocking=True)
        replay()
        for parameter, grad in zip(self.parameters, grads, strict=True):
            parameter.grad = grad
        return losses

    def _record(self, batch: Sequence[Tensor]) -> Recorded:
        inputs = [tensor.clone() for tensor in batch]

        def work() -> Losses:
            for parameter in self.parameters:
                parameter.grad = None
            return {name: loss.detach() for name, loss in self.compute(tuple(inputs)).items()}

        replay, losses = self.capture(work)
        return inputs, replay, losses, [parameter.grad for parameter in self.parameters]

    def _cuda_graph(self, work: Callable[[], Losses]) -> tuple[Replay, Losses]:
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                work()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # thread_local: the thread that pins the readers' batches uses CUDA meanwhile.
        thread = torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local")
        with torch.cuda.stream(here), thread:  # a failed capture would keep its own
            losses = work()
        self.pool = graph.pool()  # later graphs reuse what this one frees
        return graph.replay, losses


# --- batches, one ahead -----------------------------------------------------------------------


def moved(batch: Any, device: torch.device) -> Any:
    """A batch (a tensor, or a tuple of tensors and others) on the device; no copy is waited for."""
    if isinstance(batch, Tensor):
        if device.type == "cuda" and batch.device.type == "cpu" and not batch.is_pinned():
            batch = batch.pin_memory()
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple | list):
        return tuple(moved(part, device) for part in batch)
    return batch


def one_ahead(batches: Iterator[Any], device: torch.device) -> Iterator[Any]:
    """The batches on the device, each copied beside the step before it (on CUDA: its own stream).

    On a CPU they are read on demand, one by one.
    """
    if device.type != "cuda":
        copies = (moved(batch, device) for batch in batches)
        yield from copies if device.type == "cpu" else _early(copies)
        return
    aside = torch.cuda.Stream(device)

    def copied() -> Iterator[tuple[Any, Any]]:
        for batch in batches:
            with torch.cuda.stream(aside):
                copy, event = moved(batch, device), aside.record_event()
            yield copy, event

    for batch, event in _early(copied()):
        here = torch.cuda.current_stream(device)
        here.wait_event(event)
        for tensor in batch if isinstance(batch, tuple) else (batch,):
            if isinstance(tensor, Tensor):
                tensor.record_stream(here)
        yield batch


def _early(batches: Iterator[Any]) -> Iterator[Any]:
    """Each item once the one after it has been made."""
    return (batch for batch, _ in pairwise(chain(batches, [None])))


def forked_random(device: torch.device) -> AbstractContextManager[None]:
    """Put torch's random state, on the CPU and the device, back at the end."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


@contextmanager
def rehearsed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """For steps that do not count: random state and a BatchNorm's means are restored."""
    kept = [buffer.clone() for buffer in model.buffers()]
    try:
        with forked_random(device):
            yield
    finally:
        for buffer, before in zip(model.buffers(), kept, strict=True):
            buffer.copy_(before)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def is_beside(device: torch.device) -> bool:
    """Whether the device works asynchronously: the host only launches its operators."""
    return device.type != "cpu"
