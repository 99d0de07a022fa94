"""Which device and which of many processes this is: Accelerate's answer, asked for in one place."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs


def open_accelerator(idle_parameters: bool = False) -> Accelerator:
    """The accelerator of this process, as `accelerate launch`, torchrun or a notebook started it.

    Without a GPU the processes of torchrun are joined through gloo; Accelerate alone would let
    each of them train for itself. Precision is left to `optim.mixed_precision`.

    idle_parameters: some parameters get no gradient in some steps.
    """
    return Accelerator(
        mixed_precision="no",
        cpu=not torch.accelerator.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=idle_parameters)],
    )
