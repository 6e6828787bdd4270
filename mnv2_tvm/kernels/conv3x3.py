"""Dense 3x3 convolution with few input channels, padding 1, stride 1 or 2: the stem.

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

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mnv2_tvm.kernels.loops import (
    Index,
    Span,
    inside,
    tile_count,
    tile_loop,
    window_loop,
)
from mnv2_tvm.kernels.registers import RegisterTile, load, most_vectors, relu6, unchanged, vectors
from mnv2_tvm.kernels.schedule import Operands, Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target


@dataclass(frozen=True)
class Conv3x3(Schedule):
    """Decisions of the register-tiled direct convolution."""

    tile_x: int  # output columns of the register tile
    tile_n: int  # output channels of the register tile and of a weight panel

    @classmethod
    def space(cls, layer: Layer, target: Target) -> list[Self]:
        """Tiles inside the register budget."""
        lanes, budget = target.vector.lanes, target.vector.registers
        panels = sorted({min(c * lanes, layer.out_channels) for c in range(1, budget // 2)})
        widths = range(1, min(budget, layer.out_width) + 1)
        points = [cls(tile_x, tile_n) for tile_n, tile_x in product(panels, widths)]
        return [point for point in points if point.registers(layer, target) <= budget]

    @classmethod
    def default(cls, layer: Layer, target: Target) -> Self:
        """The fewest cycles, and of those the fewest loads."""

        def cycles(point: Self) -> tuple[float, float]:
            columns = vectors(point.tile_n, target.vector.lanes)
            tiles = tile_count(layer.out_width, point.tile_x)
            panels = tile_count(layer.out_channels, point.tile_n)
            multiply_adds = point.tile_x * columns / target.vector.fma_per_cycle
            loads = (point.tile_x + columns) / target.vector.loads_per_cycle
            busiest = max(multiply_adds, loads, target.vector.fma_latency)
            return tiles * panels * busiest, tiles * panels * loads

        return min(cls.space(layer, target), key=cycles)

    def registers(self, layer: Layer, target: Target) -> int:
        """Accumulators, a row of weight vectors, and a broadcast pixel."""
        columns = most_vectors(self.tile_n, layer.out_channels, target.vector.lanes)
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
        height, width, stride, span = layer.height, layer.width, layer.stride, operands.span
        for n, _ in tile_loop(layer.batch, 1, span, name="n"):
            for y, _ in window_loop(
                layer.out_height, height, stride, 1, span, shared=True, name="y"
            ):
                for c, tile_n in tile_loop(layer.out_channels, self.tile_n, span, name="n"):
                    for x, tile_x in window_loop(
                        layer.out_width, width, stride, self.tile_x, span, name="x"
                    ):
                        _tile(layer, target, operands, n, y, (x, tile_x), (c, tile_n))


def _tile(
    layer: Layer,
    target: Target,
    o: Operands,
    n: Any,
    y: Index,
    columns: tuple[Index, int],
    channels: tuple[Index, int],
) -> None:
    (x0, tile_x), (c0, tile_n) = columns, channels
    depth, stride = layer.in_channels, layer.stride
    acc = RegisterTile(tile_x, tile_n, target.vector.lanes)
    acc.fill(lambda row, j, lanes: load(o.bias, c0 + j, lanes))
    for ky, kx in _taps(y, (x0, tile_x), layer, o.span):
        line = (n * layer.height + y * stride + (ky - 1)) * layer.width
        for k, _ in tile_loop(depth, 1, o.span, name="k"):

            def pixel(i: int, kx: Index = kx, k: Index = k, line: Any = line) -> Any:
                in_x = (x0 + i) * stride + (kx - 1)
                return o.x[(line + in_x) * depth + k] if inside(in_x, layer.width) else None

            step = (ky * 3 + kx) * depth + k
            acc.multiply_add(
                pixel,
                lambda j, lanes, step=step: load(  # type: ignore[misc]
                    o.weight, c0 * 9 * depth + step * tile_n + j, lanes
                ),
            )
    finish = relu6 if layer.epilogue == "relu6" else unchanged
    line = (n * layer.out_height + y) * layer.out_width
    acc.store(o.y, lambda i, j: (line + x0 + i) * layer.out_channels + c0 + j, finish)


def _taps(
    y: Index, columns: tuple[Index, int], layer: Layer, span: Span
) -> Iterator[tuple[Index, Index]]:
    """Emit the loops over the taps; one that reaches outside the image stands by itself."""
    x0, tile_x = columns

    def reaches_out(kx: int) -> bool:
        ends = (x0 * layer.stride + (kx - 1), (x0 + tile_x - 1) * layer.stride + (kx - 1))
        return not all(inside(in_x, layer.width) for in_x in ends)

    rows = [ky for ky in range(3) if inside(y * layer.stride + (ky - 1), layer.height)]
    inner = [kx for kx in range(3) if not reaches_out(kx)]
    with T.serial(rows[0], span.opaque(rows[-1] + 1)) as ky:
        IRBuilder.name("ky", ky)
        yield from ((ky, kx) for kx in range(inner[0]))
        with T.serial(inner[0], span.opaque(inner[-1] + 1)) as kx:
            IRBuilder.name("kx", kx)
            yield ky, kx
        yield from ((ky, kx) for kx in range(inner[-1] + 1, 3))
