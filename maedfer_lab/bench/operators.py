"""How many operators a step issues: what a GPU would be asked for, one launch or more each."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# Beside views: what makes memory or a handle and computes nothing.
FREE = {"detach", "alias", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty",
        "new_empty_strided", "_unsafe_view", "_record_function_enter_new",
        "_record_function_exit"}  # fmt: skip


class Operators(TorchDispatchMode):
    """Counts operators of what runs while it is active, below autograd and autocast.

    names: how often each. Views and empty memory do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """All of them."""
        return self.names.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and count it."""
        name = func.overloadpacket.__name__
        if not func.is_view and name not in FREE:
            self.names[name] += 1
        return func(*args, **(kwargs or {}))
