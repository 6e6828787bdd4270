"""Compile single kernels into a library, run them on arrays, and compute the same with torch.

Every array stands in a larger one: around inputs lies NaN, so that a read outside shows in the
result; around the output lies a pattern that no kernel may change.
"""

import ctypes
import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tvm
from torch.nn import functional

from mnv2_tvm.deploy.link import link_shared, write_object
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.passes.lower_kernels import lower_kernels
from mnv2_tvm.target import Target

Floats = np.ndarray[Any, np.dtype[np.float32]]

_MARGIN = 64  # float32 values on each side: more than any vector
_PATTERN = np.float32(-12345.5)


@dataclass(frozen=True)
class Operands:
    """Inputs of one layer: x [n, y, x, c], weight [taps, in of a group, out], bias [out]."""

    x: Floats
    weight: Floats | None
    bias: Floats | None
    residual: Floats | None

    @classmethod
    def random(cls, layer: Layer) -> "Operands":
        """Seeded, of a spread that meets both bounds of ReLU6."""
        random = np.random.default_rng(0)

        def normal(shape: tuple[int, ...], deviation: float) -> Floats:
            return random.normal(0.0, deviation, shape).astype(np.float32)

        x = normal(layer.input_shape, 1.0)
        residual = normal(layer.output_shape, 1.0) if layer.epilogue == "residual" else None
        if layer.weight_shape is None:
            return cls(x, None, None, residual)
        taps, depth, _ = layer.weight_shape
        weight = normal(layer.weight_shape, 4.0 / (taps * depth) ** 0.5)
        return cls(x, weight, normal((layer.out_channels,), 1.0), residual)


def torch_result(layer: Layer, operands: Operands) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The layer [n, y, x, c] by torch in float64."""
    x = _double(operands.x).permute(0, 3, 1, 2)
    if operands.weight is None or operands.bias is None:
        y = x.mean(dim=(2, 3), keepdim=True)
    else:
        taps, depth, channels = operands.weight.shape
        window = 3 if taps == 9 else 1
        weight = _double(operands.weight).reshape(window, window, depth, channels)
        y = functional.conv2d(
            x,
            weight.permute(3, 2, 0, 1),
            _double(operands.bias),
            stride=layer.stride,
            padding=window // 2,
            groups=layer.in_channels // depth,
        )
    y = y.permute(0, 2, 3, 1)
    if operands.residual is not None:
        y = y + _double(operands.residual)
    return np.asarray((y.clamp(0, 6) if layer.epilogue == "relu6" else y).numpy())


class KernelLibrary:
    """Kernels of one layer, one for each of several schedules, in one shared library."""

    def __init__(self, layer: Layer, target: Target, schedules: list[Schedule]) -> None:
        self.layer = layer
        self.schedules = schedules
        kernels = {f"kernel_{i}": s.emit(layer, target) for i, s in enumerate(schedules)}
        with tempfile.TemporaryDirectory() as name:
            built, library = Path(name) / "kernels.o", Path(name) / "kernels.so"
            write_object(lower_kernels(tvm.IRModule(kernels), target), target, built)
            link_shared([built], target, library)
            self._library = ctypes.CDLL(str(library))

    def run(
        self, index: int, operands: Operands, spans: list[tuple[int, int]] | None = None
    ) -> Floats:
        """The output of schedule `index` after a call for each span [first, last) of its tasks.

        By default one call for all tasks. Elements that no call writes are NaN.
        """
        schedule, layer = self.schedules[index], self.layer
        y = _surrounded(np.full(layer.output_shape, np.nan, np.float32), _PATTERN)
        arrays = [operands.x]
        if operands.weight is not None and operands.bias is not None:
            arrays += [schedule.pack(layer, operands.weight), operands.bias]
        if operands.residual is not None:
            arrays.append(operands.residual)
        inputs = [_surrounded(array, np.float32(np.nan)) for array in arrays]
        before = [array.copy() for array in inputs]
        pointers = [ctypes.c_void_p(_address(array)) for array in inputs]
        kernel = getattr(self._library, f"kernel_{index}")
        for first, last in [(0, schedule.tasks(layer))] if spans is None else spans:
            code = kernel(
                *pointers, ctypes.c_int32(first), ctypes.c_int32(last), ctypes.c_void_p(_address(y))
            )
            assert code == 0
        for now, then in zip(inputs, before, strict=True):
            np.testing.assert_array_equal(now, then, "the kernel changed an input")
        margins = np.concatenate([y[:_MARGIN], y[-_MARGIN:]])
        assert (margins == _PATTERN).all(), "the kernel wrote outside its output"
        return y[_MARGIN:-_MARGIN].reshape(layer.output_shape).copy()


def _double(array: Floats) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64))


def _surrounded(array: Floats, margin: np.float32) -> Floats:
    """A flat copy of the array with a margin on both sides, starting at a multiple of 64 bytes."""
    memory = np.empty(prod(array.shape) + 2 * _MARGIN + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    flat = memory[start : start + prod(array.shape) + 2 * _MARGIN]
    flat[:] = margin
    flat[_MARGIN:-_MARGIN] = array.reshape(-1)
    return flat


def _address(array: Floats) -> int:
    return int(array.ctypes.data) + 4 * _MARGIN
