"""The register tile of quantised layers: int32 sums [pixels, channels] in vector registers.

Like `registers.RegisterTile`, but a step multiplies words of four values (`dots`), and channels
that fill no vector are padded: their weights are 0 and their sums are never stored.

Weights lie panel after panel, in each [run][step][vector][group of k][lane][k of the group]. A run
is what neighbouring inputs of a window have: all k of a pixel, or a row of 3x3 pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mnv2_tvm.dtype import QS8
from mnv2_tvm.kernels.dots import DOTS, WORD, Dot, DotName, words
from mnv2_tvm.kernels.loops import Index, tile_count
from mnv2_tvm.kernels.registers import Value, load
from mnv2_tvm.kernels.schedule import Schedule
from mnv2_tvm.layer import Layer, Parameter
from mnv2_tvm.target import Target, Vector

_SMALLEST = 4  # int32 of a vector: 128 bits


class DotTile:
    """int32 sums [rows, channels], each row in vectors of `lanes`."""

    def __init__(self, rows: int, channels: int, dot: Dot, lanes: int) -> None:
        self.rows = rows
        self.columns = tile_count(channels, lanes)
        self._dot = dot
        self._lanes = lanes
        self._buffer = T.alloc_buffer((rows * self.columns * lanes,), "int32", scope="local")
        IRBuilder.name("acc", self._buffer)

    def fill(self, value: Callable[[int], Value]) -> None:
        """Set every row to the vectors `value(channel)`."""
        for row in range(self.rows):
            for column in range(self.columns):
                self._put(row, column, value(column * self._lanes))

    def add(self, word: Callable[[int], Value], weights: Value, start: Index) -> None:
        """A step: multiply `word(row)` by the weights from `start` on."""
        lanes, dot = self._lanes, self._dot
        for row in range(self.rows):
            pixel = dot.pixel(word(row), lanes)
            for column in range(self.columns):
                operand = dot.weights(weights, start + column * lanes * WORD, lanes)
                self._put(row, column, dot.add(self._get(row, column), pixel, operand, lanes))

    def add_words(self, row: int, column: int, pixel: Value, weights: Value, start: Index) -> None:
        """Multiply words that differ from lane to lane by one of the vectors of a step."""
        operand = self._dot.weights(weights, start + column * self._lanes * WORD, self._lanes)
        total = self._dot.add(self._get(row, column), pixel, operand, self._lanes)
        self._put(row, column, total)

    @property
    def step(self) -> int:
        """Packed weights of a step."""
        return self.columns * self._lanes * WORD

    def sums(self, row: int) -> list[Value]:
        """The vectors of a row."""
        return [self._get(row, column) for column in range(self.columns)]

    def _get(self, row: int, column: int) -> Value:
        return load(self._buffer, (row * self.columns + column) * self._lanes, self._lanes)

    def _put(self, row: int, column: int, value: Value) -> None:
        start = (row * self.columns + column) * self._lanes
        T.buffer_store(self._buffer, value, [T.ramp(start, 1, self._lanes)])


@dataclass(frozen=True)
class DotPacked(Schedule):
    """A schedule whose weights are packed for a `DotTile`: it knows how they are multiplied."""

    dot: DotName
    lanes: int  # of int32 in a vector

    @classmethod
    def accepts(cls, layer: Layer, target: Target) -> bool:
        """Where the machine has a dot product."""
        return cls.computes(layer) and target.vector.dot.qs8 is not None

    @classmethod
    def ways(cls, layer: Layer, target: Target) -> list[tuple[DotName, int]]:
        """(dot, lanes) of full vectors, and of half ones where these have less padding."""
        name, full = target.vector.dot.qs8, target.vector.lanes(QS8)
        assert name is not None
        fewer = tile_count(layer.out_channels, full // 2) < 2 * tile_count(layer.out_channels, full)
        halves = fewer and full > _SMALLEST
        return [(name, full), (name, full // 2)] if halves else [(name, full)]

    def sums_and_operands(self, rows: int, channels: int) -> int:
        """Registers of a tile: sums, a row of weight vectors, and a pixel."""
        dot, columns = DOTS[self.dot], tile_count(channels, self.lanes)
        return rows * columns + columns * dot.weight_registers + dot.pixel_registers

    def step_cost(self, rows: int, channels: int, vector: Vector) -> tuple[float, float]:
        """(cycles, those of its loads) of a step: the busiest of arithmetic, loads and latency."""
        dot, columns = DOTS[self.dot], tile_count(channels, self.lanes)
        arithmetic = dot.arithmetic * rows * columns
        arithmetic += dot.for_each_pixel * rows + dot.for_each_weight * columns
        loads = (rows + columns * dot.weight_registers) / vector.loads_per_cycle
        return max(arithmetic / vector.fma_per_cycle, loads, dot.latency), loads

    @classmethod
    def runs(cls, layer: Layer) -> tuple[int, int]:
        """(how many, values of each) of the neighbouring inputs that a window sees."""
        side = layer.window.size
        return side, side * layer.in_channels

    def words(self, layer: Layer) -> int:
        """Words of weights that each channel has."""
        count, length = self.runs(layer)
        return count * len(words(length))

    def padded(self, layer: Layer) -> list[int]:
        """Channels of each panel, with those that only fill a vector."""
        (widths,) = self.panels(layer)
        return [self.lanes * tile_count(width, self.lanes) for width in widths]

    def packed(self, layer: Layer) -> list[tuple[int, str]]:
        """Weights, biases and multipliers have values for the padding as well."""
        channels = sum(self.padded(layer))
        weights = self.words(layer) * WORD * channels
        sizes = {"weight": weights, "bias": channels, "multiplier": channels}
        return [(sizes.get(p.role, prod(p.shape)), p.storage) for p in layer.parameters]

    def pack(self, layer: Layer, parameters: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The arrays of `layer.parameters`, those of channels panel after panel."""
        own = {p.role: array for p, array in zip(layer.parameters, parameters, strict=True)}
        missing = DOTS[self.dot].less * own["weight"].sum(axis=(0, 1), dtype=np.int64)
        own["bias"] = (own["bias"] + missing).astype(own["bias"].dtype)
        return [self._pack(layer, parameter, own[parameter.role]) for parameter in layer.parameters]

    def _pack(self, layer: Layer, parameter: Parameter, array: np.ndarray) -> np.ndarray:
        if parameter.role in ("zeros", "addition"):
            return array
        (widths,) = self.panels(layer)
        parts = np.split(array, np.cumsum(widths)[:-1], axis=-1)
        filled = [_fill(p, n) for p, n in zip(parts, self.padded(layer), strict=True)]
        if parameter.role == "weight":
            filled = [self._in_order(self.in_words(layer, part)) for part in filled]
        return np.concatenate([part.reshape(-1) for part in filled])

    def in_words(self, layer: Layer, weight: np.ndarray) -> np.ndarray:
        """The weights [taps, in channels, channels] of a panel as [run, step, channel, k]."""
        count, length = self.runs(layer)
        steps, rows = words(length), weight.reshape(count, length, -1)
        found = np.zeros((count, len(steps), rows.shape[2], WORD), weight.dtype)
        for (step, places), k in product(enumerate(steps), range(WORD)):
            if (place := places[k]) is not None:
                found[:, step, :, k] = rows[:, place]
        return found

    def _in_order(self, weight: np.ndarray) -> np.ndarray:
        """[run, step, channel, k] as [run, step, vector, group, lane, k of the group]."""
        groups = DOTS[self.dot].groups
        split = weight.reshape(*weight.shape[:2], -1, self.lanes, WORD)
        parts = [split[..., list(group)] for group in groups]
        return np.stack(parts, axis=3)


def _fill(array: np.ndarray, channels: int) -> np.ndarray:
    """The array with its last axis filled up by zeros."""
    widths = [(0, 0)] * (array.ndim - 1) + [(0, channels - array.shape[-1])]
    return np.pad(array, widths)
