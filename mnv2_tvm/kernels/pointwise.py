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

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, Self

from mnv2_tvm.kernels.loops import Index, tile_count, tile_loop
from mnv2_tvm.kernels.registers import RegisterTile, load, most_vectors, relu6, unchanged, vectors
from mnv2_tvm.kernels.schedule import Operands, Schedule, distinct
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target


@dataclass(frozen=True)
class Pointwise(Schedule):
    """Decisions of the register-tiled matrix product."""

    tile_m: int  # pixels of the register tile
    tile_n: int  # output channels of the register tile and of a weight panel
    order: Literal["mn", "nm"]  # outer loops, outermost first
    unroll_k: int  # steps of the reduction in one body of the innermost loop

    @classmethod
    def space(cls, layer: Layer, target: Target) -> list[Self]:
        """Tiles inside the register budget that leave no smaller tile with as few steps."""
        pixels, lanes = _pixels(layer), target.vector.lanes
        points = []
        for columns in range(1, target.vector.registers // 2):
            tile_n = min(columns * lanes, layer.out_channels)
            for tile_m in range(1, min(pixels, target.vector.registers) + 1):
                point = cls(tile_m, tile_n, "nm", 1)
                if point.registers(layer, target) > target.vector.registers:
                    break
                if tile_count(pixels, tile_m) < tile_count(pixels, max(tile_m - 1, 1)) or (
                    tile_m == 1
                ):
                    points.append(point)
            if tile_n == layer.out_channels:
                break
        orders: tuple[Literal["nm", "mn"], ...] = ("nm", "mn")
        unrolls = [unroll for unroll in (1, 2, 4) if unroll <= layer.in_channels]
        every = [
            cls(point.tile_m, point.tile_n, order, unroll)
            for point, order, unroll in product(points, orders, unrolls)
        ]
        return distinct(every, lambda point: point._nest(layer))

    def _nest(self, layer: Layer) -> tuple[object, ...]:
        """What the loops come to: the order of a loop with one tile does not matter."""
        both = self._row_tiles(layer) > 1 and self._panels(layer) > 1
        return self.tile_m, self.tile_n, self.unroll_k, self.order if both else None

    @classmethod
    def default(cls, layer: Layer, target: Target) -> Self:
        """The tile with the fewest cycles for the whole product, by `_cycles`."""
        space = [point for point in cls.space(layer, target) if point.unroll_k == 1]
        return min(space, key=lambda point: point._cycles(layer, target))

    def _cycles(self, layer: Layer, target: Target) -> tuple[float, float]:
        """Cost of one reduction step over all tiles: (cycles, loads to break a tie).

        A tile takes as long as the busiest of its FMAs, its loads and the latency of an FMA.
        """
        vector = target.vector
        cycles = all_loads = 0.0
        for rows, row_tiles in _sizes(_pixels(layer), self.tile_m):
            for channels, panels in _sizes(layer.out_channels, self.tile_n):
                columns = vectors(channels, vector.lanes)
                multiply_adds = rows * columns / vector.fma_per_cycle
                loads = (rows + columns) / vector.loads_per_cycle
                cycles += row_tiles * panels * max(multiply_adds, loads, vector.fma_latency)
                all_loads += row_tiles * panels * loads
        return cycles, all_loads

    def registers(self, layer: Layer, target: Target) -> int:
        """Accumulators, a row of weight vectors, and a broadcast pixel."""
        columns = most_vectors(self.tile_n, layer.out_channels, target.vector.lanes)
        return self.tile_m * columns + columns + 1

    @property
    def panel(self) -> int:
        """Weights are packed by register tile."""
        return self.tile_n

    def tasks(self, layer: Layer) -> int:
        """Threads split whichever of the two loops has more tiles."""
        return max(self._row_tiles(layer), self._panels(layer))

    def body(self, layer: Layer, target: Target, operands: Operands) -> None:
        """Emit the nest of the module's docstring."""
        by_rows = self._row_tiles(layer) >= self._panels(layer)
        span = operands.span

        def rows() -> Iterator[tuple[Index, int]]:
            return tile_loop(_pixels(layer), self.tile_m, span, shared=by_rows, name="m")

        def panels() -> Iterator[tuple[Index, int]]:
            return tile_loop(layer.out_channels, self.tile_n, span, shared=not by_rows, name="n")

        if self.order == "nm":
            for n, tile_n in panels():
                for m, tile_m in rows():
                    self._tile(layer, target, operands, m, tile_m, n, tile_n)
        else:
            for m, tile_m in rows():
                for n, tile_n in panels():
                    self._tile(layer, target, operands, m, tile_m, n, tile_n)

    def _tile(
        self,
        layer: Layer,
        target: Target,
        o: Operands,
        m: Index,
        tile_m: int,
        n: Index,
        tile_n: int,
    ) -> None:
        depth, channels = layer.in_channels, layer.out_channels
        acc = RegisterTile(tile_m, tile_n, target.vector.lanes)
        acc.fill(
            lambda i, j, lanes: (
                load(o.bias, n + j, lanes)
                if o.residual is None
                else load(o.bias, n + j, lanes)
                + load(o.residual, (m + i) * channels + n + j, lanes)
            )
        )
        for first, steps in tile_loop(depth, self.unroll_k, o.span, name="k"):
            for k in (first + part for part in range(steps)):
                acc.multiply_add(
                    lambda i, k=k: o.x[(m + i) * depth + k],  # type: ignore[misc]
                    lambda j, lanes, k=k: load(o.weight, n * depth + k * tile_n + j, lanes),  # type: ignore[misc]
                )
        finish = relu6 if layer.epilogue == "relu6" else unchanged
        acc.store(o.y, lambda i, j: (m + i) * channels + n + j, finish)

    def _row_tiles(self, layer: Layer) -> int:
        return tile_count(_pixels(layer), self.tile_m)

    def _panels(self, layer: Layer) -> int:
        return tile_count(layer.out_channels, self.tile_n)


def _pixels(layer: Layer) -> int:
    """Rows of the matrix product."""
    return layer.batch * layer.height * layer.width


def _sizes(extent: int, tile: int) -> list[tuple[int, int]]:
    """[(size, how many tiles of it)] of a tile loop."""
    full, rest = divmod(extent, tile)
    return [(tile, full)] + ([(rest, 1)] if rest else [])
