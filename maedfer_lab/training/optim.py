"""Devices, precision and parameter groups of a run (its learning rate: `config/recipe.py`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from maedfer_lab.config import FinetuneConfig, OptimConfig, Precision
from maedfer_lab.method.models import Classifier


def open_accelerator(idle_parameters: bool = False) -> Accelerator:
    """The accelerator of this process, as `accelerate launch`, torchrun or a notebook started it.

    On CPUs too, where Accelerate alone would let each torchrun process train separately.
    Precision is left to `mixed_precision`. idle_parameters: some get no gradient in some steps.
    """
    return Accelerator(
        mixed_precision="no",
        cpu=not torch.accelerator.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=idle_parameters)],
    )


def make_optimiser(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """AdamW without weight decay for biases, norms and the mask token; or Muon for matrices.

    Muon's step (all singular values equal) is for the matrices inside blocks, scaled to about the
    length of AdamW's, so that learning rates are comparable.
    """
    muon = optim.optimiser == "muon"

    def options(name: str, parameter: Tensor) -> dict[str, Any]:
        # parity: the representative tokens decay here, as in the official pre-training (B5)
        spared = parameter.ndim < 2 or name.endswith("mask_token")
        is_matrix = muon and parameter.ndim == 2 and ".blocks." in name
        decay = {"weight_decay": 0.0 if spared else optim.weight_decay}
        # groups without use_muon take AdamW's step
        return decay | {"use_muon": is_matrix, "nesterov": is_matrix} if muon else decay

    parts = _groups(model, options)
    if not muon:
        return _adamw(parts, optim.betas)
    from timm.optim.muon import Muon

    return Muon(parts, lr=0.0, betas=optim.betas)


def finetune_optimiser(model: Classifier, config: FinetuneConfig) -> torch.optim.AdamW:
    """AdamW with layer-wise learning-rate decay from the head down to the tubelet embedding,
    without frozen parameters.

    A group's `lr_scale` is `layer_decay ** (depth + 1 - layer)`, the tubelet embedding being layer
    0, block i layer i + 1, and fc_norm, head and representative tokens layer depth + 1 (B6: as in
    the reference; `rep_tokens_layer="first"` gives the latter the embedding's rate). Without
    weight decay: biases, norms and, unless `decay_rep_tokens`, the representative tokens.
    """
    top, rep_layer = model.config.depth + 1, config.rep_tokens_layer

    def options(name: str, parameter: Tensor) -> dict[str, Any]:
        # timm's `param_groups_layer_decay` counts differently and has no representative tokens.
        is_rep, block = name == "encoder.rep_tokens", re.match(r"encoder\.blocks\.(\d+)\.", name)
        spared = parameter.ndim < 2 or (is_rep and not config.decay_rep_tokens)
        is_first = name.startswith("encoder.embed.") or (is_rep and rep_layer == "first")
        layer = 0 if is_first else int(block[1]) + 1 if block else top
        return {"weight_decay": 0.0 if spared else config.optim.weight_decay,
                "lr_scale": config.layer_decay ** (top - layer)}  # fmt: skip

    return _adamw(_groups(model, options), config.optim.betas)


def _groups(
    model: nn.Module, options: Callable[[str, Tensor], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Trainable parameters that share their options, in the order of the model."""
    groups: dict[tuple, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = options(name, parameter)
            group = groups.setdefault(tuple(own.values()), {"params": [], **own})
            group["params"].append(parameter)
    return list(groups.values())


def _adamw(parts: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW whose step is one pass over the parameters (`fused`), also once a run is resumed."""

    def keep_fused(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        # A loaded state brings its own options; those of older runs lack `fused`.
        groups = [{**group, "fused": True, "foreach": None} for group in state["param_groups"]]
        return {**state, "param_groups": groups}

    optimiser = torch.optim.AdamW(parts, lr=0.0, betas=betas, fused=True)
    optimiser.register_load_state_dict_pre_hook(keep_fused)
    return optimiser


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively (on others it would be slower)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch has no public check for the CPU; if the private one is gone, float32 is safe.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return device.type == "cpu" and bool(supported())


def amp_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The type of mixed precision: bf16 if the device supports it, else fp16 on a GPU.

    None is float32 throughout, also on a CPU without bf16.
    """
    if precision == "bf16" and has_bf16(device):
        return torch.bfloat16
    return torch.float16 if precision != "float32" and device.type == "cuda" else None


def mixed_precision(precision: Precision, device: torch.device) -> AbstractContextManager:
    """Run the model in the half precision that `amp_dtype` names, or unchanged."""
    dtype = amp_dtype(precision, device)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def device_name(device: torch.device) -> str:
    """Name of the device for the provenance."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
