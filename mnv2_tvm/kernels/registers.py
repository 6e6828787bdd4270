"""The register tile: accumulators [rows, channels] that live in vector registers.

Every kernel is a loop nest around this one building block. The rows are pixels; the channels
are cut into vectors as wide as the machine's and, where they do not divide, narrower ones.
The buffer behind it is indexed by constants only, so LLVM keeps it in registers.
"""

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mnv2_tvm.kernels.loops import Index

Value = Any  # a float32 TIR expression, scalar or vector


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
    """Accumulators [rows, channels] in registers of `lanes` float32 values."""

    def __init__(self, rows: int, channels: int, lanes: int) -> None:
        self._rows = rows
        self._channels = channels
        self._vectors = cut(channels, lanes)
        self._buffer = T.alloc_buffer((rows * channels,), "float32", scope="local")
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

    def store(
        self, buffer: Any, index: Callable[[int, int], Index], finish: Callable[[Value, int], Value]
    ) -> None:
        """Write `finish(vector, lanes)` to `buffer` at `index(row, channel)`."""
        for row in range(self._rows):
            for channel, lanes in self._vectors:
                value = finish(self._get(row, channel, lanes), lanes)
                T.buffer_store(buffer, value, [_range(index(row, channel), lanes)])

    def _get(self, row: int, channel: int, lanes: int) -> Value:
        return load(self._buffer, row * self._channels + channel, lanes)

    def _put(self, row: int, channel: int, lanes: int, value: Value) -> None:
        T.buffer_store(self._buffer, value, [_range(row * self._channels + channel, lanes)])


def relu6(value: Value, lanes: int) -> Value:
    """min(max(value, 0), 6)."""
    low, high = (broadcast(T.float32(bound), lanes) for bound in (0.0, 6.0))
    return T.min(T.max(value, low), high)


def unchanged(value: Value, lanes: int) -> Value:
    """The epilogue of a linear layer."""
    return value


def _range(index: Index, lanes: int) -> Index:
    return index if lanes == 1 else T.ramp(index, 1, lanes)
