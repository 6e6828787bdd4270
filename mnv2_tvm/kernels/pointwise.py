"""Pointwise (1x1) convolution and the classifier: a matrix product y[m, n] = x[m, k] w[k, n].

    for n in panels of tile_n:              # order "nm"; "mn" swaps the two outer loops
      for m in tiles of tile_m:
        acc[tile_m, tile_n] = bias[n] (+ residual[m, n])        # registers
        for k:
          acc[i, j] += x[m + i, k] * w[n, k, j]                 # broadcast times vector
        y[m, n] = relu6(acc)

A panel of weights [k, tile_n] is contiguous. The tile holds tile_m x tile_n / lanes
accumulators, one row of weight vectors and one broadcast pixel: the register budget.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

from mnv2_tvm.dtype import F32
from mnv2_tvm.kernels.loops import Index, Span, tile_loop
from mnv2_tvm.kernels.prefetch import Ahead, are_far
from mnv2_tvm.kernels.product import Product
from mnv2_tvm.kernels.registers import (
    RegisterTile,
    Value,
    load,
    most_vectors,
    vectors,
)
from mnv2_tvm.kernels.schedule import Operands
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target
from mnv2_tvm.window import Window


@dataclass(frozen=True)
class Pointwise(Product):
    """Decisions of the register-tiled matrix product."""

    @classmethod
    def computes(cls, layer: Layer) -> bool:
        """float32, of all pixels."""
        return (layer.operator, layer.dtype, layer.window) == ("pwconv", F32, Window(1))

    @classmethod
    def space(cls, layer: Layer, target: Target) -> list[Self]:
        """All tiles inside the register budget."""
        lanes = target.vector.lanes(layer.dtype)
        return cls.points(layer, target, lanes, layer.in_channels)

    def cost(self, rows: int, channels: int, target: Target) -> tuple[float, float]:
        """A tile takes as long as the busiest of its FMAs, its loads and the latency of an FMA."""
        vector = target.vector
        columns = vectors(channels, vector.lanes(F32))
        multiply_adds = rows * columns / vector.fma_per_cycle
        loads = (rows + columns) / vector.loads_per_cycle
        return max(multiply_adds, loads, vector.fma_latency), loads

    def registers(self, layer: Layer, target: Target) -> int:
        """Accumulators, a row of weight vectors, and a broadcast pixel."""
        columns = most_vectors(self.tile_n, layer.out_channels, target.vector.lanes(layer.dtype))
        return self.tile_m * columns + columns + 1

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
        acc = RegisterTile(tile_m, tile_n, target.vector)
        acc.fill(
            lambda i, j, lanes: (
                load(o.bias, n + j, lanes)
                if o.residual is None
                else load(o.bias, n + j, lanes)
                + load(o.residual, (m + i) * channels + n + j, lanes)
            )
        )
        multiply(
            acc,
            o.span,
            (depth, self.unroll_k),
            lambda i, k: o.x[(m + i) * depth + k],
            lambda k, j, lanes: load(o.weight, n * depth + k * tile_n + j, lanes),
            self._ahead(layer, target, o, m, n),
        )
        acc.store(o.y, lambda i, j: (m + i) * channels + n + j, relu6=layer.epilogue == "relu6")

    def _ahead(self, layer: Layer, target: Target, o: Operands, m: Index, n: Index) -> Ahead | None:
        """The tile's share of the next layer's weights, else of the next panel."""
        rows, panels = self.row_tiles(layer), self.panel_count(layer)
        depth, row_tile = layer.in_channels, m // self.tile_m
        if o.ahead_bytes:
            number = n // self.tile_n * rows + row_tile
            end = (depth + 1) * layer.out_channels  # of the weights and the bias
            return Ahead.share(o.weight, end, number, rows * panels, o.ahead_bytes)
        if self.order == "nm" and rows > 1 and are_far(4 * depth * layer.out_channels, target):
            after = (n + self.tile_n) * depth
            return Ahead.share(o.weight, after, row_tile, rows, 4 * depth * self.tile_n)
        return None


def multiply(
    acc: RegisterTile,
    span: Span,
    reduction: tuple[int, int],
    pixel: Callable[[int, Index], Value],
    weight: Callable[[Index, int, int], Value],
    ahead: Ahead | None = None,
) -> None:
    """Emit the reduction of (depth, unrolled steps): add pixel(row, k) * weight(k, j, lanes)."""
    depth, unroll = reduction
    each = ahead.each(depth) if ahead else 0
    fetching = min(depth, -(-ahead.lines // (each * unroll)) * unroll) if ahead else 0
    for base, extent in ((0, fetching), (fetching, depth - fetching)):
        for first, steps in tile_loop(extent, unroll, span, name="k"):
            for k in (base + first + step for step in range(steps)):
                if ahead and base < fetching:
                    ahead.fetch(k, each)
                acc.multiply_add(partial(_at, pixel, k), partial(weight, k))


def _at(pixel: Callable[[int, Index], Value], k: Index, row: int) -> Value:
    return pixel(row, k)
