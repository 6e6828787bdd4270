"""The register tile: accumulators [rows, channels] that live in vector registers.

Every kernel is a loop nest around this one building block. The rows are pixels; the channels
are cut into vectors as wide as the machine's and, where they do not divide, narrower ones.
The buffer behind it is indexed by constants only, so LLVM keeps it in registers.
"""

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mnv2_tvm.dtype import F32, Dtype
from mnv2_tvm.kernels.loops import Index
from mnv2_tvm.target import Vector

Value = Any  # a TIR expression, scalar or vector


def cut(channels: int, lanes: int) -> list[tuple[int, int]]:
    """Cut `channels` into vectors: [(first channel, lanes)], 24 by 16 -> [(0, 16), (16, 8)]."""
    pieces = []
    start = 0
    while start < channels:
        while lanes > channels - start:
            lanes //= 2
        pieces.append((start, lanes))
        start += lanes
    return pieces


def vectors(channels: int, lanes: int) -> int:
    """How many registers a row of `channels` takes."""
    return len(cut(channels, lanes))


def most_vectors(panel: int, channels: int, lanes: int) -> int:
    """The same of the worst panel: a left-over one may be cut into more, narrower vectors."""
    return max(vectors(panel, lanes), vectors(channels % panel, lanes))


def load(buffer: Any, index: Index, lanes: int) -> Value:
    """`lanes` neighbouring values of a flat buffer."""
    return buffer[_range(index, lanes)]


def broadcast(value: Value, lanes: int) -> Value:
    """One value in every lane."""
    return value if lanes == 1 else T.broadcast(value, lanes)


class RegisterTile:
    """Accumulators [rows, channels] in registers of the machine's vector unit."""

    def __init__(self, rows: int, channels: int, vector: Vector, dtype: Dtype = F32) -> None:
        self._rows = rows
        self._channels = channels
        self._machine = vector
        self._vectors = cut(channels, vector.lanes(dtype))
        self._buffer = T.alloc_buffer((rows * channels,), dtype.accumulator, scope="local")
        IRBuilder.name("acc", self._buffer)

    def fill(self, value: Callable[[int, int, int], Value]) -> None:
        """Set every vector to `value(row, channel, lanes)`."""
        for row in range(self._rows):
            for channel, lanes in self._vectors:
                self._put(row, channel, lanes, value(row, channel, lanes))

    def multiply_add(
        self, pixel: Callable[[int], Value | None], weight: Callable[[int, int], Value]
    ) -> None:
        """Outer product: add the scalar `pixel(row)` times the vector `weight(channel, lanes)`.

        A row whose pixel is None is left as it is (a tap outside the image).
        """
        for row in range(self._rows):
            scalar = pixel(row)
            if scalar is None:
                continue
            for channel, lanes in self._vectors:
                product = broadcast(scalar, lanes) * weight(channel, lanes)
                self._put(row, channel, lanes, self._get(row, channel, lanes) + product)

    def accumulate(self, row: int, value: Callable[[int, int], Value]) -> None:
        """Add the vector `value(channel, lanes)` to one row."""
        for channel, lanes in self._vectors:
            self._put(row, channel, lanes, self._get(row, channel, lanes) + value(channel, lanes))

    def values(self, row: int) -> list[tuple[int, int, Value]]:
        """[(first channel, lanes, vector)] of a row."""
        return [
            (channel, lanes, self._get(row, channel, lanes)) for channel, lanes in self._vectors
        ]

    def scale(self, factor: float) -> None:
        """Multiply every value by `factor`."""
        for row in range(self._rows):
            for channel, lanes in self._vectors:
                scaled = self._get(row, channel, lanes) * broadcast(T.float32(factor), lanes)
                self._put(row, channel, lanes, scaled)

    def store(self, buffer: Any, index: Callable[[int, int], Index], *, relu6: bool) -> None:
        """Write min(max(value, 0), 6) or the value itself to `buffer` at `index(row, channel)`.

        NaN stays NaN, as in torch.
        """
        if relu6 and self._machine.max_of_nan == "number":
            # NaN is rare: it is looked for once a tile.
            with T.If(self._has_nan()):
                with T.Then():
                    self._store(buffer, index, _select)
                with T.Else():
                    self._store(buffer, index, _number)
        else:
            self._store(buffer, index, _RELU6[self._machine.max_of_nan] if relu6 else _unchanged)

    def _store(
        self, buffer: Any, index: Callable[[int, int], Index], finish: Callable[[Value, int], Value]
    ) -> None:
        for row in range(self._rows):
            for channel, lanes in self._vectors:
                value = finish(self._get(row, channel, lanes), lanes)
                T.buffer_store(buffer, value, [_range(index(row, channel), lanes)])

    def _has_nan(self) -> Any:
        """Whether one of its values, which are scalars here, is NaN or two of them are infinite.

        A sum is NaN where one of its values is; two of them wait for half as many additions.
        """
        values = [
            self._get(row, j, lanes) for row in range(self._rows) for j, lanes in self._vectors
        ]
        halves = [sum(half[1:], half[0]) for half in (values[::2], values[1::2]) if half]
        tests = [T.isnan(half) for half in halves]
        return tests[0] if len(tests) == 1 else T.Or(*tests)

    def _get(self, row: int, channel: int, lanes: int) -> Value:
        return load(self._buffer, row * self._channels + channel, lanes)

    def _put(self, row: int, channel: int, lanes: int, value: Value) -> None:
        T.buffer_store(self._buffer, value, [_range(row * self._channels + channel, lanes)])


# ReLU6 as a machine has it in two instructions. LLVM takes a comparison and a choice for a maximum
# whose result, where an operand is NaN, is the second: which one that is, decides what NaN becomes.


def _select(value: Value, lanes: int) -> Value:
    """NaN stays: it is the second operand."""
    low, high = _bounds(lanes)
    return T.min(high, T.max(low, value))


def _number(value: Value, lanes: int) -> Value:
    """NaN becomes 0."""
    low, high = _bounds(lanes)
    return T.min(T.max(value, low), high)


def _propagate(value: Value, lanes: int) -> Value:
    """NaN stays: the result is NaN where any operand is."""
    low, high = _bounds(lanes)
    above = tirx.call_llvm_pure_intrin(value.ty, "llvm.maximum", value, low)
    return tirx.call_llvm_pure_intrin(value.ty, "llvm.minimum", above, high)


_RELU6 = {"second": _select, "nan": _propagate}


def _bounds(lanes: int) -> tuple[Value, Value]:
    return broadcast(T.float32(0), lanes), broadcast(T.float32(6), lanes)


def _unchanged(value: Value, lanes: int) -> Value:
    return value


def _range(index: Index, lanes: int) -> Index:
    return index if lanes == 1 else T.ramp(index, 1, lanes)
