"""Quantised depthwise 3x3 convolution by a dot product of four bytes: taps above one another.

    the loops of `depthwise`:
      acc[tile_y, tile_x, tile_c] = bias[c]                     # int32, in registers
      for each column of input pixels under the tile:           # unrolled
        words[c] = four pixels above one another, interleaved: one in each byte of a lane
        for each kx that maps it to a column of outputs of the tile:
          acc[output] += words . w[kx, c]                       # three taps and a 0

With stride 1 the same words serve two rows of outputs: by the weights (w0, w1, w2, 0) the upper
one, by (0, w0, w1, w2) the lower one.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any, Self

import numpy as np
from tvm.script.ir_builder import tirx as T

from mnv2_tvm.dtype import QS8
from mnv2_tvm.kernels.depthwise import Depthwise, Order
from mnv2_tvm.kernels.dot_tile import DotPacked, DotTile
from mnv2_tvm.kernels.dots import DOTS, WORD
from mnv2_tvm.kernels.loops import Index, inside, is_peelable, tile_count
from mnv2_tvm.kernels.registers import Value, load
from mnv2_tvm.kernels.requantise import load_some, store
from mnv2_tvm.kernels.schedule import Operands, distinct
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target

_COLUMNS = 7  # of a tile by default: words are made for two more, so fewer have more to make
_SHUFFLES = 3  # registers: the orders that interleave, and what is interleaved


@dataclass(frozen=True)
class DepthwiseDot(DotPacked, Depthwise):
    """Decisions of the register-tiled depthwise convolution of bytes."""

    @classmethod
    def computes(cls, layer: Layer) -> bool:
        """Quantised, a window whose border can be peeled, and nothing to add."""
        mine = (layer.operator, layer.dtype) == ("dwconv", QS8) and layer.epilogue != "residual"
        return mine and is_peelable(layer.window)

    @classmethod
    def accepts(cls, layer: Layer, target: Target) -> bool:
        """Where one instruction takes four bytes: parting them costs more than they save."""
        return cls.computes(layer) and target.vector.dot.qs8 == "vpdpbusd"

    @classmethod
    def space(cls, layer: Layer, target: Target) -> list[Self]:
        """Tiles inside the register budget."""
        orders: tuple[Order, ...] = ("yxc", "ycx", "cyx")
        rows = range(1, min(_shared_rows(layer), layer.out_height) + 1)
        widths = range(1, min(target.vector.registers, layer.out_width) + 1)
        points = [
            cls(y, x, min(columns * lanes, layer.out_channels), order, dot, lanes)
            for dot, lanes in cls.ways(layer, target)
            for columns in range(1, min(4, tile_count(layer.out_channels, lanes)) + 1)
            for y, x, order in product(rows, widths, orders)
        ]
        budget = target.vector.registers
        fitting = [point for point in points if point.registers(layer, target) <= budget]
        return distinct(fitting, lambda point: (point.lanes, point.nest(layer)))

    @classmethod
    def default(cls, layer: Layer, target: Target) -> Self:
        """One vector of channels, as many rows as share their words, and even tiles of columns."""
        columns = tile_count(layer.out_width, tile_count(layer.out_width, _COLUMNS))
        space = cls.space(layer, target)
        lanes = min(space[0].lanes, layer.out_channels)
        wanted = (min(_shared_rows(layer), layer.out_height), columns, lanes)
        return next(p for p in space if (p.tile_y, p.tile_x, p.tile_c) == wanted)

    def registers(self, layer: Layer, target: Target) -> int:
        """Accumulators and what interleaves; weights are memory operands."""
        return self.tile_y * self.tile_x * tile_count(self.tile_c, self.lanes) + _SHUFFLES

    def words(self, layer: Layer) -> int:
        """Three columns of taps, for each row of outputs that shares the pixels' words."""
        return 3 * _shared_rows(layer)

    def in_words(self, layer: Layer, weight: np.ndarray) -> np.ndarray:
        """The weights [9, 1, channels] of a panel as [row of outputs, kx, channel, k of a word]."""
        taps = weight.reshape(3, 3, -1).transpose(1, 2, 0)  # [kx, channel, ky]
        rows = range(_shared_rows(layer))
        return np.stack([np.pad(taps, [(0, 0), (0, 0), (row, 1 - row)]) for row in rows])

    def tile(
        self,
        layer: Layer,
        target: Target,
        o: Operands,
        n: Any,
        rows: tuple[Index, int],
        columns: tuple[Index, int],
        channels: tuple[Index, int],
    ) -> None:
        """Emit the accumulators, the taps and the epilogue of one tile."""
        (y0, tile_y), (x0, tile_x), (c0, tile_c) = rows, columns, channels
        stride, before, depth = layer.window.stride, layer.window.before, layer.out_channels
        border, lanes = T.Cast("uint8", o.parts[0]["zeros"][1]), self.lanes
        acc = DotTile(tile_y * tile_x, tile_c, DOTS[self.dot], lanes)
        acc.fill(lambda j: load(o.bias, c0 + j, lanes))

        def pixel(dy: int, dx: int, c: int) -> Value:
            y, x = y0 * stride + (dy - before), x0 * stride + (dx - before)
            if not (inside(y, layer.height) and inside(x, layer.width)):
                return T.broadcast(border, lanes)
            at = ((n * layer.height + y) * layer.width + x) * depth + c0 + c
            return load_some(o.x, at, lanes, min(lanes, tile_c - c))

        for dx, column in product(range((tile_x - 1) * stride + 3), range(acc.columns)):
            seen = [pixel(dy, dx, column * lanes) for dy in range(tile_y + 2)]
            operand = _interleave([*seen, seen[0]][:WORD], lanes)
            for i, kx in product(range(tile_y), range(3)):
                j, rest = divmod(dx - kx, stride)
                if rest == 0 and 0 <= j < tile_x:
                    start = c0 * self.words(layer) * WORD + (i * 3 + kx) * acc.step
                    acc.add_words(i * tile_x + j, column, operand, o.weight, start)
        for row in range(tile_y * tile_x):
            y, x = y0 + row // tile_x, x0 + row % tile_x
            place = ((n * layer.out_height + y) * layer.out_width + x) * depth + c0
            store(layer, o, acc.sums(row), lanes, (place, c0, tile_c))


def _shared_rows(layer: Layer) -> int:
    """Rows of outputs whose taps are all among four rows of pixels."""
    return 2 if layer.window.stride == 1 else 1


def _interleave(pixels: list[Value], lanes: int) -> Value:
    """Words of four vectors of bytes: first by blocks of four channels, then within each block."""
    blocks = lanes // WORD
    parts = [T.reinterpret(f"int32x{blocks}", pixel) for pixel in pixels]
    order = [row * blocks + block for block in range(blocks) for row in range(WORD)]
    together = T.reinterpret(f"uint8x{WORD * lanes}", T.Shuffle(parts, order))
    size = WORD * WORD
    places = [
        block * size + row * WORD + channel
        for block, channel, row in product(range(blocks), range(WORD), range(WORD))
    ]
    return T.Shuffle([together], places)
