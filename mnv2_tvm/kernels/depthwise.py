"""Depthwise 3x3 convolution, stride 1 or 2.

    for c in panels of tile_c:              # order "cyx"; "ycx" and "yxc" move it inwards
      for y in tiles of tile_y:             # tiles at the border are peeled ...
        for x in tiles of tile_x:
          acc[tile_y, tile_x, tile_c] = bias[c]                 # registers
          for each input pixel under the tile:                  # unrolled
            for each tap that maps it to an output of the tile:
              acc[output] += input[pixel, c] * w[tap, c]
          y[...] = relu6(acc)

... so that their taps outside the image are left out when the body is emitted: there is neither
a padded copy nor a branch inside the taps. Each input vector is loaded once per tile and used
for up to nine outputs; nine weight vectors stay in registers while c is the outermost loop.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal, Self

from mnv2_tvm.dtype import F32
from mnv2_tvm.kernels.loops import Index, inside, is_peelable, tile_count, tile_loop, window_loop
from mnv2_tvm.kernels.registers import (
    RegisterTile,
    Value,
    load,
    most_vectors,
)
from mnv2_tvm.kernels.schedule import Operands, Schedule, distinct
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target

Order = Literal["cyx", "ycx", "yxc"]

_MOST_TAPS = 9 * 16  # of one emitted body: larger tiles gain nothing and bloat the code


@dataclass(frozen=True)
class Depthwise(Schedule):
    """Decisions of the register-tiled depthwise convolution."""

    tile_y: int  # output rows of the register tile
    tile_x: int  # output columns
    tile_c: int  # channels, also of a weight panel
    order: Order  # outer loops, outermost first

    @classmethod
    def computes(cls, layer: Layer) -> bool:
        """float32, a window whose border can be peeled, and nothing to add."""
        mine = (layer.operator, layer.dtype) == ("dwconv", F32) and layer.epilogue != "residual"
        return mine and is_peelable(layer.window)

    @classmethod
    def space(cls, layer: Layer, target: Target) -> list[Self]:
        """Tiles whose accumulators fit the register file beside an input and a weight vector."""
        points, lanes = [], target.vector.lanes(layer.dtype)
        orders: tuple[Order, ...] = ("cyx", "ycx", "yxc")
        columns = [c for c in (1, 2, 3, 4) if (c - 1) * lanes < layer.out_channels]
        rows = range(1, min(4, layer.out_height) + 1)
        widths = range(1, min(target.vector.registers, layer.out_width) + 1)
        for tile_y, tile_x, column, order in product(rows, widths, columns, orders):
            tile_c = min(column * lanes, layer.out_channels)
            point = cls(tile_y, tile_x, tile_c, order)
            if point.registers(layer, target) > target.vector.registers:
                continue
            if tile_y * tile_x * column * 9 > _MOST_TAPS and tile_y * tile_x > 1:
                continue
            points.append(point)
        if not points:  # odd channel counts are cut into many narrow vectors
            points = [cls(1, 1, min(lanes, layer.out_channels), "yxc")]
        return distinct(points, lambda point: point.nest(layer))

    def nest(self, layer: Layer) -> tuple[object, ...]:
        """What the loops come to: the order of those with one tile does not matter."""
        counts = {
            "c": self._panels(layer),
            "y": self._row_tiles(layer),
            "x": tile_count(layer.out_width, self.tile_x),
        }
        order = "".join(axis for axis in self.order if counts[axis] > 1)
        return self.tile_y, self.tile_x, self.tile_c, order

    @classmethod
    def default(cls, layer: Layer, target: Target) -> Self:
        """Two by two pixels, and as many channels as hide the latency of an FMA.

        One vector of channels where all weights must be in registers. Larger tiles load less, but
        their peeled borders are more code than they are worth.
        """
        space = cls.space(layer, target)
        columns = 1
        if target.vector.memory_operands:
            columns = max(1, target.vector.fma_latency * target.vector.fma_per_cycle // 4)
        wanted = [(2, 2, columns), (2, 2, 1), (1, 2, 1), (2, 1, 1)]
        for tile_y, tile_x, column in wanted:
            tile_c = min(column * target.vector.lanes(layer.dtype), layer.out_channels)
            tile_y, tile_x = min(tile_y, layer.out_height), min(tile_x, layer.out_width)
            fitting = [
                p for p in space if (p.tile_y, p.tile_x, p.tile_c) == (tile_y, tile_x, tile_c)
            ]
            if fitting:
                return fitting[0]  # channels outermost, where the orders differ
        return space[0]

    def extents(self, layer: Layer) -> dict[str, int]:
        """Rows, columns and channels."""
        return {
            "tile_y": layer.out_height,
            "tile_x": layer.out_width,
            "tile_c": layer.out_channels,
        }

    def registers(self, layer: Layer, target: Target) -> int:
        """Accumulators, an input vector, and the weights.

        Where FMAs read weights from memory one register is enough for them. Elsewhere all nine
        taps stay in registers, and beside them the bounds of ReLU6 if no loop lies within.
        """
        columns = most_vectors(self.tile_c, layer.out_channels, target.vector.lanes(layer.dtype))
        accumulators = self.tile_y * self.tile_x * columns
        if target.vector.memory_operands:
            return accumulators + 2
        bounds = 2 if self.order != "yxc" else 0
        return accumulators + columns + 9 * columns + bounds

    @property
    def panel(self) -> int:
        """Weights are packed by register tile."""
        return self.tile_c

    def tasks(self, layer: Layer) -> int:
        """Threads split whichever of rows and channels has more tiles."""
        return max(self._row_tiles(layer), self._panels(layer))

    def body(self, layer: Layer, target: Target, operands: Operands) -> None:
        """Emit the nest of the module's docstring."""
        by_rows = self._row_tiles(layer) >= self._panels(layer)
        loops: dict[str, Callable[[], Iterator[tuple[Index, int]]]] = {
            "c": lambda: tile_loop(
                layer.out_channels,
                self.tile_c,
                operands.span,
                shared=not by_rows,
                name="c",
            ),
            "y": lambda: window_loop(
                layer.out_height,
                layer.height,
                layer.window,
                self.tile_y,
                operands.span,
                shared=by_rows,
                name="y",
            ),
            "x": lambda: window_loop(
                layer.out_width,
                layer.width,
                layer.window,
                self.tile_x,
                operands.span,
                name="x",
            ),
        }
        outer, middle, inner = self.order
        for n, _ in tile_loop(layer.batch, 1, operands.span, name="n"):
            for first in loops[outer]():
                for second in loops[middle]():
                    for third in loops[inner]():
                        tile = {outer: first, middle: second, inner: third}
                        self.tile(layer, target, operands, n, tile["y"], tile["x"], tile["c"])

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
        acc = RegisterTile(tile_y * tile_x, tile_c, target.vector)
        acc.fill(lambda row, j, lanes: load(o.bias, c0 + j, lanes))

        def pixel(dy: int, dx: int, c: int, lanes: int) -> Value | None:
            y, x = y0 * stride + (dy - before), x0 * stride + (dx - before)
            if not (inside(y, layer.height) and inside(x, layer.width)):
                return None
            return load(o.x, ((n * layer.height + y) * layer.width + x) * depth + c0 + c, lanes)

        slide(
            acc,
            (tile_y, tile_x, stride),
            pixel,
            lambda tap, c, lanes: load(o.weight, c0 * 9 + tap * tile_c + c, lanes),
        )
        acc.store(
            o.y,
            lambda row, j: (
                ((n * layer.out_height + y0 + row // tile_x) * layer.out_width + x0 + row % tile_x)
                * depth
                + c0
                + j
            ),
            relu6=layer.epilogue == "relu6",
        )

    def _row_tiles(self, layer: Layer) -> int:
        return tile_count(layer.out_height, self.tile_y)

    def _panels(self, layer: Layer) -> int:
        return tile_count(layer.out_channels, self.tile_c)


def slide(
    acc: RegisterTile,
    tile: tuple[int, int, int],
    pixel: Callable[[int, int, int, int], Value | None],
    weight: Callable[[int, int, int], Value],
) -> None:
    """Add all taps to a tile of (rows, columns, stride), input pixel after input pixel.

    `pixel(dy, dx, channel, lanes)` reads the window under the tile, from its first tap on; None
    is outside the image. `weight(tap, channel, lanes)` reads the weights.
    """
    tile_y, tile_x, stride = tile
    for dy, dx in product(range((tile_y - 1) * stride + 3), range((tile_x - 1) * stride + 3)):
        if pixel(dy, dx, 0, 1) is None:
            continue
        for i, j, tap in _uses(dy, dx, tile_y, tile_x, stride):
            acc.accumulate(
                i * tile_x + j, partial(_product, partial(pixel, dy, dx), partial(weight, tap))
            )


def _product(
    pixel: Callable[[int, int], Value], weight: Callable[[int, int], Value], c: int, lanes: int
) -> Value:
    return pixel(c, lanes) * weight(c, lanes)


def _uses(
    dy: int, dx: int, tile_y: int, tile_x: int, stride: int
) -> Iterator[tuple[int, int, int]]:
    """The outputs (row, column) of the tile that read input (dy, dx) of its window, and the tap."""
    for ky, kx in product(range(3), range(3)):
        (i, rest_y), (j, rest_x) = divmod(dy - ky, stride), divmod(dx - kx, stride)
        if rest_y == rest_x == 0 and 0 <= i < tile_y and 0 <= j < tile_x:
            yield i, j, ky * 3 + kx
