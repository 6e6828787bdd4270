"""Quantised dense 3x3 convolution with few input channels, stride 1 or 2: the stem.

    the loops of `conv3x3`:
      acc[tile_x, tile_n] = bias[n]                             # int32, in registers
      for ky:
        for words of four neighbouring values:                  # unrolled: columns and channels
          acc[i, j] += input[pixel(i, ky), word] . w[n, ky, word, j]
      y[...] = requantised acc

The three pixels of a row of the window lie side by side, 9 bytes of three channels, so they are
read in words across pixels. Outside the image lies the border's pixel: words of peeled tiles that
reach there are put together byte by byte.
"""

from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Self

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mnv2_tvm.dtype import QS8
from mnv2_tvm.kernels.conv3x3 import Conv3x3
from mnv2_tvm.kernels.dot_tile import DotPacked, DotTile
from mnv2_tvm.kernels.dots import DOTS, WORD, word, word_of, words
from mnv2_tvm.kernels.loops import Index, inside, is_peelable, tile_count
from mnv2_tvm.kernels.registers import Value, load
from mnv2_tvm.kernels.requantise import store
from mnv2_tvm.kernels.schedule import Operands
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target


@dataclass(frozen=True)
class Conv3x3Dot(DotPacked, Conv3x3):
    """Decisions of the register-tiled direct convolution of bytes."""

    @classmethod
    def computes(cls, layer: Layer) -> bool:
        """Quantised, a window whose border can be peeled, and nothing to add."""
        mine = (layer.operator, layer.dtype) == ("conv", QS8) and layer.epilogue != "residual"
        return mine and is_peelable(layer.window)

    @classmethod
    def space(cls, layer: Layer, target: Target) -> list[Self]:
        """Tiles inside the register budget, by each way to multiply."""
        budget, points = target.vector.registers, list[Self]()
        widths = range(1, min(budget, layer.out_width) + 1)
        for dot, lanes in cls.ways(layer, target):
            panels = sorted({min(c * lanes, layer.out_channels) for c in range(1, budget // 2)})
            points += [cls(x, n, dot, lanes) for n, x in product(panels, widths)]
        return [point for point in points if point.registers(layer, target) <= budget]

    def cycles(self, layer: Layer, target: Target) -> tuple[float, float]:
        """Cost of one step over a row: (cycles, loads to break a tie)."""
        tiles = tile_count(layer.out_width, self.tile_x)
        tiles *= tile_count(layer.out_channels, self.tile_n)
        cycles, loads = self.step_cost(self.tile_x, self.tile_n, target.vector)
        return tiles * cycles, tiles * loads

    def registers(self, layer: Layer, target: Target) -> int:
        """Those of a full tile."""
        return self.sums_and_operands(self.tile_x, self.tile_n)

    def tile(
        self,
        layer: Layer,
        target: Target,
        o: Operands,
        n: Any,
        y: Index,
        columns: tuple[Index, int],
        channels: tuple[Index, int],
    ) -> None:
        """Emit the accumulators, the taps and the epilogue of one tile."""
        (x0, tile_x), (c0, tile_c) = columns, channels
        steps = words(self.runs(layer)[1])
        acc = DotTile(tile_x, tile_c, DOTS[self.dot], self.lanes)
        acc.fill(lambda j: load(o.bias, c0 + j, self.lanes))

        def add_row(ky: Index, outside: bool) -> None:
            line = None if outside else y * layer.window.stride + (ky - layer.window.before)
            for number, places in enumerate(steps):
                start = c0 * 3 * len(steps) * WORD + (ky * len(steps) + number) * acc.step
                acc.add(partial(_word, layer, o, (n, line, x0), places), o.weight, start)

        first = y * layer.window.stride - layer.window.before
        inner = [ky for ky in range(3) if inside(first + ky, layer.height)]
        for ky in range(3):
            if ky not in inner:
                add_row(ky, outside=True)
        with T.serial(inner[0], o.span.opaque(inner[-1] + 1)) as ky:
            IRBuilder.name("ky", ky)
            add_row(ky, outside=False)
        row = (n * layer.out_height + y) * layer.out_width + x0
        for i in range(tile_x):
            place = (row + i) * layer.out_channels + c0
            store(layer, o, acc.sums(i), self.lanes, (place, c0, tile_c))


def _word(
    layer: Layer,
    o: Operands,
    at: tuple[Index, Index | None, Index],
    places: list[int | None],
    i: int,
) -> Value:
    """The word of these values of a row of the window of output i; a row of None is outside."""
    (n, line, x0), depth, window = at, layer.in_channels, layer.window
    left = (x0 + i) * window.stride - window.before
    low = max(k for k in places if k is not None) + 1 - WORD
    whole = line is not None and low >= 0
    if whole and all(inside(left + k // depth, layer.width) for k in range(low, low + WORD)):
        return word(o.x, ((n * layer.height + line) * layer.width + left) * depth + low)

    def value(k: int | None) -> Value:
        if k is None:
            return T.int32(0)
        column, channel = divmod(k, depth)
        if line is None or not inside(left + column, layer.width):
            return o.parts[0]["zeros"][1 + channel]
        x = (n * layer.height + line) * layer.width + left + column
        return T.Cast("int32", o.x[x * depth + channel])

    return word_of([value(k) for k in places])
