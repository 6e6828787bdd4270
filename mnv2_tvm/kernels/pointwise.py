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

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal, Self

from mnv2_tvm.dtype import F32
from mnv2_tvm.kernels.loops import Index, Span, tile_count, tile_loop
from mnv2_tvm.kernels.prefetch import Ahead, are_far
from mnv2_tvm.kernels.registers import (
    RegisterTile,
    Value,
    load,
    most_vectors,
    vectors,
)
from mnv2_tvm.kernels.schedule import Operands, Schedule, distinct
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target
from mnv2_tvm.window import Window


@dataclass(frozen=True)
class Pointwise(Schedule):
    """Decisions of the register-tiled matrix product."""

    tile_m: int  # pixels of the register tile
    tile_n: int  # output channels of the register tile and of a weight panel
    order: Literal["mn", "nm"]  # outer loops, outermost first
    unroll_k: int  # steps of the reduction in one body of the innermost loop

    @classmethod
    def computes(cls, layer: Layer) -> bool:
        """float32, of all pixels."""
        return (layer.operator, layer.dtype, layer.window) == ("pwconv", F32, Window(1))

    @classmethod
    def space(cls, layer: Layer, target: Target) -> list[Self]:
        """Tiles inside the register budget that leave no smaller tile with as few steps."""
        pixels, lanes = _pixels(layer), target.vector.lanes(layer.dtype)
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
        return cls.ranked(layer, target)[0]

    @classmethod
    def ranked(cls, layer: Layer, target: Target) -> list[Self]:
        """The tiles of the space, the one with the fewest cycles first; no unrolling."""
        space = [p for p in cls.space(layer, target) if p.unroll_k == 1 and p.order == "nm"]
        return sorted(space, key=lambda point: point._cycles(layer, target))

    def _cycles(self, layer: Layer, target: Target) -> tuple[float, float]:
        """Cost of one reduction step over all tiles: (cycles, loads to break a tie).

        A tile takes as long as the busiest of its FMAs, its loads and the latency of an FMA.
        """
        vector = target.vector
        cycles = all_loads = 0.0
        for rows, row_tiles in _sizes(_pixels(layer), self.tile_m):
            for channels, panels in _sizes(layer.out_channels, self.tile_n):
                columns = vectors(channels, vector.lanes(layer.dtype))
                multiply_adds = rows * columns / vector.fma_per_cycle
                loads = (rows + columns) / vector.loads_per_cycle
                cycles += row_tiles * panels * max(multiply_adds, loads, vector.fma_latency)
                all_loads += row_tiles * panels * loads
        return cycles, all_loads

    def extents(self, layer: Layer) -> dict[str, int]:
        """Pixels, channels and the reduction."""
        return {
            "tile_m": _pixels(layer),
            "tile_n": layer.out_channels,
            "unroll_k": layer.in_channels,
        }

    def registers(self, layer: Layer, target: Target) -> int:
        """Accumulators, a row of weight vectors, and a broadcast pixel."""
        columns = most_vectors(self.tile_n, layer.out_channels, target.vector.lanes(layer.dtype))
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
        rows, panels = self._row_tiles(layer), self._panels(layer)
        depth, row_tile = layer.in_channels, m // self.tile_m
        if o.ahead_bytes:
            number = n // self.tile_n * rows + row_tile
            end = (depth + 1) * layer.out_channels  # of the weights and the bias
            return Ahead.share(o.weight, end, number, rows * panels, o.ahead_bytes)
        if self.order == "nm" and rows > 1 and are_far(4 * depth * layer.out_channels, target):
            after = (n + self.tile_n) * depth
            return Ahead.share(o.weight, after, row_tile, rows, 4 * depth * self.tile_n)
        return None

    def _row_tiles(self, layer: Layer) -> int:
        return tile_count(_pixels(layer), self.tile_m)

    def _panels(self, layer: Layer) -> int:
        return tile_count(layer.out_channels, self.tile_n)


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


def _pixels(layer: Layer) -> int:
    """Rows of the matrix product."""
    return layer.batch * layer.height * layer.width


def _sizes(extent: int, tile: int) -> list[tuple[int, int]]:
    """[(size, how many tiles of it)] of a tile loop."""
    full, rest = divmod(extent, tile)
    return [(tile, full)] + ([(rest, 1)] if rest else [])
