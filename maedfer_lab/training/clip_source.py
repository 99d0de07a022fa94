"""What pre-training asks of its data."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset


class ClipSource(Dataset, ABC):
    """What the loop asks of its data."""

    description: str

    @abstractmethod
    def __getitem__(self, index: int) -> UInt8[Tensor, "T H W 3"]:
        """Training clip `index` of an endless stream: always the same for the same index.

        RGB in [0, 255], as the device gets it; there `PretrainTask` makes floats of it.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What training clip `index` was made from, for messages."""

    @abstractmethod
    def held_out(self) -> Float[Tensor, "b 3 T H W"]:
        """Clips of identities that the stream does not contain."""
