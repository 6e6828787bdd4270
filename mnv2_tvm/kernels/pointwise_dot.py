"""Quantised pointwise (1x1) convolution and classifier: y[m, n] = x[m, k] w[k, n] of bytes.

    for n in panels of tile_n:              # order "nm"; "mn" swaps the two outer loops
      for m in tiles of tile_m:
        acc[tile_m, tile_n] = bias[n]                           # int32, in registers
        for words of four k:
          acc[i, j] += x[m + i, word] . w[n, word, j]           # the machine's dot product
        y[m, n] = requantised acc (+ residual[m, n])

The outer product of `pointwise`, with a word of four values in place of one.
"""

from dataclasses import dataclass
from functools import partial
from typing import Self

from tvm.script.ir_builder import tirx as T

from mnv2_tvm.dtype import QS8
from mnv2_tvm.kernels.dot_tile import DotPacked, DotTile
from mnv2_tvm.kernels.dots import DOTS, WORD, word, word_of, words
from mnv2_tvm.kernels.loops import Index, tile_loop
from mnv2_tvm.kernels.product import Product
from mnv2_tvm.kernels.registers import Value, load
from mnv2_tvm.kernels.requantise import store
from mnv2_tvm.kernels.schedule import Operands
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target
from mnv2_tvm.window import Window


@dataclass(frozen=True)
class PointwiseDot(DotPacked, Product):
    """Decisions of the register-tiled product of bytes."""

    @classmethod
    def computes(cls, layer: Layer) -> bool:
        """Quantised, of all pixels."""
        return (layer.operator, layer.dtype, layer.window) == ("pwconv", QS8, Window(1))

    @classmethod
    def space(cls, layer: Layer, target: Target) -> list[Self]:
        """All tiles inside the register budget, by each way to multiply."""
        steps = len(words(layer.in_channels))
        return [
            point
            for dot, lanes in cls.ways(layer, target)
            for point in cls.points(layer, target, lanes, steps, dot, lanes)
        ]

    def cost(self, rows: int, channels: int, target: Target) -> tuple[float, float]:
        """Of a step of the tile."""
        return self.step_cost(rows, channels, target.vector)

    def registers(self, layer: Layer, target: Target) -> int:
        """Those of a full tile."""
        return self.sums_and_operands(self.tile_m, self.tile_n)

    def tile(
        self,
        layer: Layer,
        target: Target,
        o: Operands,
        m: Index,
        tile_m: int,
        n: Index,
        tile_n: int,
    ) -> None:
        """Emit the accumulators, the reduction and the epilogue of one tile."""
        depth, channels = layer.in_channels, layer.out_channels
        acc = DotTile(tile_m, tile_n, DOTS[self.dot], self.lanes)
        acc.fill(lambda j: load(o.bias, n + j, self.lanes))
        steps = words(depth)
        panel = n * len(steps) * WORD
        for first, count in tile_loop(depth // WORD, self.unroll_k, o.span, name="k"):
            for step in (first + i for i in range(count)):
                start = panel + step * acc.step
                acc.add(partial(_word, o.x, m * depth + step * WORD, depth), o.weight, start)
        if depth % WORD:
            start = panel + (len(steps) - 1) * acc.step
            acc.add(partial(_last_word, o.x, m * depth, depth), o.weight, start)
        for i in range(tile_m):
            place = (m + i) * channels + n
            store(layer, o, acc.sums(i), self.lanes, (place, n, tile_n))


def _word(x: Value, start: Index, pitch: int, row: int) -> Value:
    return word(x, start + row * pitch)


def _last_word(x: Value, start: Index, depth: int, row: int) -> Value:
    """The last four values of a pixel, or all of it."""
    index = start + row * depth
    if depth >= WORD:
        return word(x, index + depth - WORD)
    return word_of([T.Cast("int32", x[index + k]) for k in range(depth)])
