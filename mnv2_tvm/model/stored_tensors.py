"""Tensors as files describe them, and their numbers as arrays."""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

MAX_DIMENSIONS = 8
_MAX_COUNT = 2**40  # of elements along a dimension or of a stride: no sum of products overflows

# Of each type the numpy type of its bytes; what MobileNetV2 is never trained in is not read.
_READ_AS = {"float32": "f4", "float64": "f8", "float16": "f2", "bfloat16": "u2"}


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of bytes in a file, which tensors are views of."""

    key: str  # where it is in the file
    dtype: str  # of the first tensor that it is of: "float32"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage; offset and strides count elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or len(self.shape) > MAX_DIMENSIONS:
            raise ValueError("a tensor with a wrong number of dimensions")
        if not all(type(number) is int and 0 <= number < _MAX_COUNT for number in numbers):
            raise ValueError("a tensor with a wrong shape")

    @property
    def size(self) -> int:
        """Its number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class OddTensor:
    """A tensor that is not read, with what is odd about it and the remedy."""

    what: str  # "is sparse"
    remedy: str


Tensor = StoredTensor | OddTensor


def is_real(dtype: str) -> bool:
    """Whether numbers of the type are read."""
    return dtype in _READ_AS


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor whose elements lie one after another."""
    return tuple(prod(shape[index + 1 :]) for index in range(len(shape)))


def float32_of(tensor: StoredTensor, data: bytes, order: str) -> NDArray[np.float32]:
    """The numbers of a tensor of a type that `is_real`, an array of its own.

    `data` is its storage and `order` "<" or ">". The caller has bounded `tensor.size`. Raises
    ValueError where the tensor is not inside its storage.
    """
    dtype = np.dtype(f"{order}{_READ_AS[tensor.dtype]}")
    flat = np.frombuffer(data, dtype, count=len(data) // dtype.itemsize)
    reach = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if tensor.size == 0:
        return np.zeros(tensor.shape, np.float32)
    if tensor.offset + reach >= flat.size:
        raise ValueError("a tensor that is not inside its storage")
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    view: NDArray[Any] = as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)
    if tensor.dtype == "bfloat16":  # the upper half of a float32
        return np.ascontiguousarray((view.astype(np.uint32) << 16).view(np.float32))
    with np.errstate(over="ignore"):  # becomes infinite, which the caller looks for
        return np.array(view, np.float32, order="C")
