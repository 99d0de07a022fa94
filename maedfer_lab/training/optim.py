"""Parameter groups and precision of a run (its learning rate: `config/schedule.py`)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from maedfer_lab.config import OptimConfig, Precision


def make_optimiser(model: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW without weight decay for biases, norms and the mask token."""
    groups: dict[float, list[Tensor]] = {optim.weight_decay: [], 0.0: []}
    for name, parameter in model.named_parameters():
        # parity: the representative tokens decay here, as in the official pre-training (B5)
        spared = parameter.ndim < 2 or name.endswith("mask_token")
        groups[0.0 if spared else optim.weight_decay].append(parameter)
    parts: list[dict[str, Any]] = [
        {"params": params, "weight_decay": decay} for decay, params in groups.items()
    ]
    return torch.optim.AdamW(parts, lr=0.0, betas=optim.betas)


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself (on others it would be slower)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch has no public question for the CPU yet; without the private one float32 is safe.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return device.type == "cpu" and bool(supported())


def mixed_precision(precision: Precision, device: torch.device) -> AbstractContextManager:
    """Run the model in bfloat16 where asked for and where the device has it."""
    if precision == "bf16" and has_bf16(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def device_name(device: torch.device) -> str:
    """Name of the device for the provenance."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
