"""Dense 3x3 convolution with few input channels, stride 1 or 2: the stem.

    for y in rows:                          # border tiles are peeled, their outer taps left out
      for n in panels of tile_n:
        for x in tiles of tile_x:
          acc[tile_x, tile_n] = bias[n]                         # registers
          for ky, for kx:
            for each input channel:                             # unrolled
              acc[i, j] += input[pixel(i, ky, kx), channel] * w[n, ky, kx, channel, j]
          y[...] = relu6(acc)

No im2col: a pixel's three channels are broadcast straight from the image. The taps stay loops:
with all of them in one body, LLVM keeps pixels that two taps share in registers, and spills.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Self

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mnv2_tvm.dtype import F32
from mnv2_tvm.kernels.loops import (
    Index,
    Span,
    inside,
    is_peelable,
    tile_count,
    tile_loop,
    window_loop,
)
from mnv2_tvm.kernels.registers import (
    RegisterTile,
    Value,
    load,
    most_vectors,
    vectors,
)
from mnv2_tvm.kernels.schedule import Operands, Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target


@dataclass(frozen=True)
class Conv3x3(Schedule):
    """Decisions of the register-tiled direct convolution."""

    tile_x: int  # output columns of the register tile
    tile_n: int  # output channels of the register tile and of a weight panel

    @classmethod
    def computes(cls, layer: Layer) -> bool:
        """float32, a window whose border can be peeled, and nothing to add."""
        mine = (layer.operator, layer.dtype) == ("conv", F32) and layer.epilogue != "residual"
        return mine and is_peelable(layer.window)

    @classmethod
    def space(cls, layer: Layer, target: Target) -> list[Self]:
        """Tiles inside the register budget."""
        lanes, budget = target.vector.lanes(layer.dtype), target.vector.registers
        panels = sorted({min(c * lanes, layer.out_channels) for c in range(1, budget // 2)})
        widths = range(1, min(budget, layer.out_width) + 1)
        points = [cls(tile_x, tile_n) for tile_n, tile_x in product(panels, widths)]
        return [point for point in points if point.registers(layer, target) <= budget]

    @classmethod
    def default(cls, layer: Layer, target: Target) -> Self:
        """The fewest cycles, and of those the fewest loads."""
        return cls.ranked(layer, target)[0]

    @classmethod
    def ranked(cls, layer: Layer, target: Target) -> list[Self]:
        """The tiles of the space, the one with the fewest cycles first."""
        return sorted(cls.space(layer, target), key=lambda point: point.cycles(layer, target))

    def cycles(self, layer: Layer, target: Target) -> tuple[float, float]:
        """Cost of one step of the taps over a row: (cycles, loads to break a tie)."""
        vector = target.vector
        columns = vectors(self.tile_n, vector.lanes(layer.dtype))
        tiles = tile_count(layer.out_width, self.tile_x) * tile_count(
            layer.out_channels, self.tile_n
        )
        multiply_adds = self.tile_x * columns / vector.fma_per_cycle
        loads = (self.tile_x + columns) / vector.loads_per_cycle
        return tiles * max(multiply_adds, loads, vector.fma_latency), tiles * loads

    def extents(self, layer: Layer) -> dict[str, int]:
        """Columns and channels."""
        return {
            "tile_x": layer.out_width,
            "tile_n": layer.out_channels,
        }

    def registers(self, layer: Layer, target: Target) -> int:
        """Accumulators, a row of weight vectors, and a broadcast pixel."""
        columns = most_vectors(self.tile_n, layer.out_channels, target.vector.lanes(layer.dtype))
        return self.tile_x * columns + columns + 1

    @property
    def panel(self) -> int:
        """Weights are packed by register tile."""
        return self.tile_n

    def tasks(self, layer: Layer) -> int:
        """Threads split the output rows."""
        return layer.out_height

    def body(self, layer: Layer, target: Target, operands: Operands) -> None:
        """Emit the nest of the module's docstring."""
        height, width, window, span = layer.height, layer.width, layer.window, operands.span
        for n, _ in tile_loop(layer.batch, 1, span, name="n"):
            for y, _ in window_loop(
                layer.out_height, height, window, 1, span, shared=True, name="y"
            ):
                for c, tile_n in tile_loop(layer.out_channels, self.tile_n, span, name="n"):
                    for x, tile_x in window_loop(
                        layer.out_width, width, window, self.tile_x, span, name="x"
                    ):
                        self.tile(layer, target, operands, n, y, (x, tile_x), (c, tile_n))

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
        (x0, tile_x), (c0, tile_n) = columns, channels
        depth, window = layer.in_channels, layer.window
        acc = RegisterTile(tile_x, tile_n, target.vector)
        acc.fill(lambda row, j, lanes: load(o.bias, c0 + j, lanes))
        first, height = y * window.stride, layer.height
        inner = [ky for ky in range(3) if inside(first + (ky - window.before), height)]
        convolve(
            acc,
            layer,
            o.span,
            (y, inner[0], o.span.opaque(inner[-1] + 1)),
            (x0, tile_x),
            lambda line, x, k: o.x[((n * layer.height + line) * layer.width + x) * depth + k],
            lambda step, j, lanes: load(o.weight, c0 * 9 * depth + step * tile_n + j, lanes),
        )
        line = (n * layer.out_height + y) * layer.out_width
        acc.store(
            o.y,
            lambda i, j: (line + x0 + i) * layer.out_channels + c0 + j,
            relu6=layer.epilogue == "relu6",
        )


def convolve(
    acc: RegisterTile,
    layer: Layer,
    span: Span,
    row: tuple[Index, Index, Index],
    columns: tuple[Index, int],
    pixel: Callable[[Index, Index, Index], Value],
    weight: Callable[[Index, int, int], Value],
) -> None:
    """Add all taps to a tile of the output row (y, first tap row inside the image, their end).

    `pixel(y, x, channel)` reads the image and `weight(step, j, lanes)` the step'th weight row.
    """
    (y, low, high), (x0, tile_x) = row, columns
    depth, stride, before = layer.in_channels, layer.window.stride, layer.window.before

    def value(kx: Index, line: Index, k: Index, i: int) -> Value | None:
        x = (x0 + i) * stride + (kx - before)
        return pixel(line, x, k) if inside(x, layer.width) else None

    with T.serial(low, high) as ky:
        IRBuilder.name("ky", ky)
        line = y * stride + (ky - before)
        for kx in _columns((x0, tile_x), layer, span):
            for k, _ in tile_loop(depth, 1, span, name="k"):
                step = (ky * 3 + kx) * depth + k
                acc.multiply_add(partial(value, kx, line, k), partial(weight, step))


def _columns(columns: tuple[Index, int], layer: Layer, span: Span) -> Iterator[Index]:
    """Emit the loop over kx; a tap column that reaches outside the image stands by itself."""
    (x0, tile_x), stride = columns, layer.window.stride

    def reaches_out(kx: int) -> bool:
        tap = kx - layer.window.before
        ends = (x0 * stride + tap, (x0 + tile_x - 1) * stride + tap)
        return not all(inside(x, layer.width) for x in ends)

    inner = [kx for kx in range(3) if not reaches_out(kx)]
    yield from range(inner[0])
    with T.serial(inner[0], span.opaque(inner[-1] + 1)) as kx:
        IRBuilder.name("kx", kx)
        yield kx
    yield from range(inner[-1] + 1, 3)
