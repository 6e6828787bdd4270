"""Operands of quantised layers, their results by numpy, and their kernels run beside a guard.

Every input ends where a page begins that nobody may read, and starts after bytes that mean nothing.
Where a kernel reads or writes outside is thereby known: it crashes, or its result depends on what
lay there.
"""

import ctypes
import mmap
import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from mnv2_tvm.deploy.link import link_shared, write_object
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer, Parameter
from mnv2_tvm.passes.lower_kernels import lower_kernels
from mnv2_tvm.target import Target

Array = NDArray[Any]

_MARGIN = 128  # bytes on each side: more than any vector
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class ByteOperands:
    """Inputs of one quantised layer: x [n, y, x, c], and what `layer.parameters` lists."""

    x: Array
    parameters: list[Array]
    residual: Array | None

    @classmethod
    def random(cls, layer: Layer) -> "ByteOperands":
        """Seeded, of a spread that meets both bounds of a byte."""
        random = np.random.default_rng(0)
        taps, depth, _ = layer.weight_shape or (layer.height * layer.width, 1, 1)
        deviation = (taps * depth) ** 0.5 * 147 * 73  # of the sums
        zero = 0 if layer.epilogue == "relu6" else int(random.integers(60, 190))

        def parameter(p: Parameter) -> Array:
            if p.role == "weight":
                return random.integers(-127, 128, p.shape).astype(np.int8)
            if p.role == "bias":
                return random.normal(0, deviation, p.shape).astype(np.int32)
            if p.role == "multiplier":
                return (random.uniform(60, 140, p.shape) / deviation).astype(np.float32)
            if p.role == "zeros":
                return np.append(zero, random.integers(0, 256, p.shape[0] - 1)).astype(np.int32)
            own = random.integers(60, 190)
            return np.array([-own, 255 - own, 131, 0.737, 0.911], np.float32)

        x = random.integers(0, 256, layer.input_shape).astype(np.uint8)
        residual = None
        if layer.epilogue == "residual":
            residual = random.integers(0, 256, layer.output_shape).astype(np.uint8)
        parameters = [parameter(p) for p in layer.parameters]
        if layer.operator == "avgpool":
            pixels = layer.height * layer.width
            parameters = [
                np.array([-17 * pixels], np.int32),
                np.array([1.37 / pixels], np.float32),
                np.array([3], np.int32),
            ]
        return cls(x, parameters, residual)

    def by_role(self, layer: Layer) -> dict[str, Array]:
        """The parameters by their names."""
        return {p.role: a for p, a in zip(layer.parameters, self.parameters, strict=True)}


def numpy_result(layer: Layer, operands: ByteOperands) -> Array:
    """The layer [n, y, x, c], slowly: sums in int64, everything else in float32."""
    own = operands.by_role(layer)
    sums = _sums(layer, operands.x.astype(np.int64), own) + own["bias"].astype(np.int64)
    assert np.abs(sums).max() < 2**31
    scaled = sums.astype(np.float32) * own["multiplier"]
    if layer.epilogue == "logits":
        return scaled
    if operands.residual is not None:
        least, most, x_zero, p_factor, x_factor = own["addition"]
        branch = np.rint(scaled).clip(least, most)
        skip = (operands.residual.astype(np.float32) - x_zero) * x_factor
        # The product of two float32 is exact, and so is the sum where it has 64 bits.
        exact = branch.astype(np.longdouble) * np.longdouble(p_factor) + skip
        scaled = exact.astype(np.float32)
    return (np.rint(scaled) + own["zeros"][0]).clip(0, 255).astype(np.uint8)


def _sums(layer: Layer, x: Array, own: dict[str, Array]) -> Array:
    if layer.operator == "avgpool":
        return x.sum(axis=(1, 2), keepdims=True)
    weight, window = own["weight"].astype(np.int64), layer.window
    _, height, width, _ = layer.output_shape
    edge = [(0, 0), (window.before, window.after), (window.before, window.after), (0, 0)]
    padded = np.pad(x, edge)
    inside = np.pad(np.ones_like(x), edge)
    if len(own.get("zeros", ())) > 1:
        padded = np.where(inside, padded, own["zeros"][1:])
    total = np.zeros(layer.output_shape, np.int64)
    for tap, values in enumerate(weight):
        ky, kx = divmod(tap, window.size)
        rows = slice(ky, ky + (height - 1) * window.stride + 1, window.stride)
        columns = slice(kx, kx + (width - 1) * window.stride + 1, window.stride)
        seen = padded[:, rows, columns]
        total += seen * values[0] if layer.operator == "dwconv" else seen @ values
    return total


class ByteLibrary:
    """Kernels of one quantised layer, one for each of several schedules."""

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
        self,
        index: int,
        operands: ByteOperands,
        rubbish: int,
        spans: list[tuple[int, int]] | None = None,
    ) -> Array:
        """The output of schedule `index` after a call for each span [first, last) of its tasks.

        By default one call for all tasks. Around all arrays, and in the output where no call
        writes, lie bytes of the value `rubbish`.
        """
        schedule, layer = self.schedules[index], self.layer
        assert not schedule.scratch_floats(layer)
        arrays = [operands.x, *schedule.pack(layer, operands.parameters)]
        packed = [(a.size, a.dtype.name) for a in arrays[1:]]
        assert packed == schedule.packed(layer), str(schedule)
        if operands.residual is not None:
            arrays.append(operands.residual)
        inputs = [_Guarded(array, rubbish) for array in arrays]
        size = prod(layer.output_shape) * np.dtype(layer.output_storage).itemsize
        y = np.full(_MARGIN + size + _MARGIN, rubbish, np.uint8)
        kernel = getattr(self._library, f"kernel_{index}")
        for first, last in [(0, schedule.tasks(layer))] if spans is None else spans:
            bounds = (ctypes.c_int32(first), ctypes.c_int32(last))
            pointers = [ctypes.c_void_p(one.address) for one in inputs]
            assert kernel(*pointers, *bounds, ctypes.c_void_p(y.ctypes.data + _MARGIN)) == 0
        for one, array in zip(inputs, arrays, strict=True):
            assert one.bytes() == array.tobytes(), "the kernel changed an input"
        assert (np.concatenate([y[:_MARGIN], y[-_MARGIN:]]) == rubbish).all(), "it wrote outside"
        return y[_MARGIN:-_MARGIN].view(layer.output_storage).reshape(layer.output_shape).copy()


class _Guarded:
    """A copy of an array that ends where a page begins that nobody may read."""

    def __init__(self, array: Array, rubbish: int) -> None:
        page = mmap.PAGESIZE
        room = -(-(array.nbytes + _MARGIN) // page) * page
        self._memory = mmap.mmap(-1, room + page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._memory[:room] = bytes([rubbish]) * (room - array.nbytes) + array.tobytes()
        if _LIBC.mprotect(ctypes.c_void_p(start + room), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
        self._end, self._size = room, array.nbytes
        self.address = start + room - array.nbytes

    def bytes(self) -> bytes:
        """What is there now."""
        return self._memory[self._end - self._size : self._end]
