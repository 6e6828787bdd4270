"""The arithmetic of a layer: how its tensors are stored, and in what its products are summed."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Dtype:
    """One kind of arithmetic. Types by the names that numpy and TVM share."""

    name: str  # the first word of a layer's name
    storage: str  # of the tensors between the layers
    accumulator: str

    @property
    def bytes(self) -> int:
        """Of one stored value."""
        return np.dtype(self.storage).itemsize


F32 = Dtype("f32", "float32", "float32")

DTYPES = {dtype.name: dtype for dtype in (F32,)}
