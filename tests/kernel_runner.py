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
    """Inputs of one layer: x [n, y, x, c], and arrays of the shapes in `layer.parameters`."""

    x: Floats
    parameters: list[Floats]
    residual: Floats | None

    @classmethod
    def random(cls, layer: Layer) -> "Operands":
        """Seeded, of a spread that meets both bounds of ReLU6."""
        random = np.random.default_rng(0)

        def normal(shape: tuple[int, ...], deviation: float) -> Floats:
            return random.normal(0.0, deviation, shape).astype(np.float32)

        x = normal(layer.input_shape, 1.0)
        residual = normal(layer.output_shape, 1.0) if layer.epilogue == "residual" else None
        parameters = [
            normal(p.shape, 4.0 / prod(p.shape[:-1]) ** 0.5 if p.role == "weight" else 1.0)
            for p in layer.parameters
        ]
        return cls(x, parameters, residual)


def torch_result(layer: Layer, operands: Operands) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The layer [n, y, x, c] by torch in float64."""
    y = _double(operands.x).permute(0, 3, 1, 2)
    if not layer.weighted:
        y = y.mean(dim=(2, 3), keepdim=True)
    weights_of, biases = operands.parameters[::2], operands.parameters[1::2]
    for part, weights, bias in zip(layer.weighted, weights_of, biases, strict=True):
        _, depth, channels = weights.shape
        window, side = part.window, part.window.size
        weight = _double(weights).reshape(side, side, depth, channels)
        y = functional.conv2d(
            functional.pad(y, (window.before, window.after) * 2),
            weight.permute(3, 2, 0, 1),
            _double(bias),
            stride=window.stride,
            dilation=window.dilation,
            groups=part.in_channels // depth,
        )
        y = y.clamp(0, 6) if part.epilogue == "relu6" else y
    y = y.permute(0, 2, 3, 1)
    if operands.residual is not None:
        y = y + _double(operands.residual)
    return np.asarray(y.numpy())


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
        arrays = [operands.x, *schedule.pack(layer, operands.parameters)]
        if operands.residual is not None:
            arrays.append(operands.residual)
        inputs = [_surrounded(array, np.float32(np.nan)) for array in arrays]
        before = [array.copy() for array in inputs]
        pointers = [ctypes.c_void_p(_address(array)) for array in inputs]
        kernel = getattr(self._library, f"kernel_{index}")
        scratch = np.full(schedule.scratch_floats(layer), np.nan, np.float32)
        for first, last in [(0, schedule.tasks(layer))] if spans is None else spans:
            memory = _surrounded(scratch, _PATTERN)
            results = [y, memory] if scratch.size else [y]
            code = kernel(
                *pointers,
                ctypes.c_int32(first),
                ctypes.c_int32(last),
                *(ctypes.c_void_p(_address(result)) for result in results),
            )
            assert code == 0
            edges = np.concatenate([memory[:_MARGIN], memory[-_MARGIN:]])
            assert (edges == _PATTERN).all(), "the kernel wrote outside its scratch memory"
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
