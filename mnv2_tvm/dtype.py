"""The arithmetic of a layer: how its tensors are stored, and in what its products are summed."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Dtype:
    """One kind of arithmetic. Types by the names that numpy and TVM share."""

    name: str  # the first word of a layer's name
    storage: str  # of the tensors between the layers
    weight: str
    accumulator: str
    multiplier: str | None = None  # of a sum, before it is stored; None: it is stored as it is

    @property
    def bytes(self) -> int:
        """Of one stored value."""
        return np.dtype(self.storage).itemsize

    @property
    def accumulator_bytes(self) -> int:
        """Of one sum."""
        return np.dtype(self.accumulator).itemsize


F32 = Dtype("f32", "float32", "float32", "float32")
# Quantised: tensors with a scale and a zero point, weights with a scale for each output channel.
QS8 = Dtype("qs8", "uint8", "int8", "int32", "float32")

DTYPES = {dtype.name: dtype for dtype in (F32, QS8)}
