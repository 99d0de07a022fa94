"""The learning rate of a step."""

from __future__ import annotations

import math

from maedfer_lab.config.recipe import OptimConfig


def learning_rate(step: int, optim: OptimConfig) -> float:
    """Linear warm-up from 0, then cosine decay; both ends scaled by batch_size / 256.

    *Official:* the same formula; its warm-up reaches the peak in its last step.
    """
    scale = optim.batch_size / 256
    peak, end = optim.lr * scale, min(optim.min_lr, optim.lr) * scale
    if step < optim.warmup_steps:
        return peak * step / max(1, optim.warmup_steps - 1)
    rest = max(1, optim.steps - optim.warmup_steps)
    return end + 0.5 * (peak - end) * (1 + math.cos(math.pi * (step - optim.warmup_steps) / rest))
