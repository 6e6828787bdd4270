"""What kernels of a matrix product y[m, n] = x[m, k] w[k, n] share: tiles of it and their order.

for n in panels of tile_n:              # order "nm"; "mn" swaps the two outer loops
  for m in tiles of tile_m:
    the kernel's own tile
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, Self

from mnv2_tvm.kernels.loops import Index, tile_count, tile_loop
from mnv2_tvm.kernels.schedule import Operands, Schedule, distinct
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target

Order = Literal["mn", "nm"]


@dataclass(frozen=True)
class Product(Schedule):
    """Decisions of a register-tiled matrix product."""

    tile_m: int  # pixels of the register tile
    tile_n: int  # output channels of the register tile and of a weight panel
    order: Order  # outer loops, outermost first
    unroll_k: int  # steps of the reduction in one body of the innermost loop

    @classmethod
    def points(cls, layer: Layer, target: Target, lanes: int, steps: int, *own: Any) -> list[Self]:
        """Tiles inside the register budget that leave no smaller tile with as few steps.

        Their vectors have `lanes` channels, and the reduction `steps` steps; `own` are the
        decisions of a subclass.
        """
        budget, pixels = target.vector.registers, pixels_of(layer)
        points: list[Self] = []
        for columns in range(1, budget // 2):
            tile_n = min(columns * lanes, layer.out_channels)
            for tile_m in range(1, min(pixels, budget) + 1):
                point = cls(tile_m, tile_n, "nm", 1, *own)
                if point.registers(layer, target) > budget:
                    break
                if tile_count(pixels, tile_m) < tile_count(pixels, max(tile_m - 1, 1)) or (
                    tile_m == 1
                ):
                    points.append(point)
            if tile_n == layer.out_channels:
                break
        orders: tuple[Order, ...] = ("nm", "mn")
        unrolls = [unroll for unroll in (1, 2, 4) if unroll <= steps]
        every = [
            cls(point.tile_m, point.tile_n, order, unroll, *own)
            for point, order, unroll in product(points, orders, unrolls)
        ]
        return distinct(every, lambda point: point._nest(layer))

    def _nest(self, layer: Layer) -> tuple[object, ...]:
        """What the loops come to: the order of a loop with one tile does not matter."""
        both = self.row_tiles(layer) > 1 and self.panel_count(layer) > 1
        return self.tile_m, self.tile_n, self.unroll_k, self.order if both else None

    @classmethod
    def default(cls, layer: Layer, target: Target) -> Self:
        """The tile with the fewest cycles for the whole product."""
        return cls.ranked(layer, target)[0]

    @classmethod
    def ranked(cls, layer: Layer, target: Target) -> list[Self]:
        """The tiles of the space, the one with the fewest cycles first; no unrolling."""
        space = [p for p in cls.space(layer, target) if p.unroll_k == 1 and p.order == "nm"]
        return sorted(space, key=lambda point: point._cycles(layer, target))

    @abstractmethod
    def cost(self, rows: int, channels: int, target: Target) -> tuple[float, float]:
        """(cycles, those of its loads) of one step of the reduction of a tile."""

    def _cycles(self, layer: Layer, target: Target) -> tuple[float, float]:
        """Cost of one reduction step over all tiles: (cycles, loads to break a tie)."""
        cycles = all_loads = 0.0
        for rows, row_tiles in _sizes(pixels_of(layer), self.tile_m):
            for channels, panels in _sizes(layer.out_channels, self.tile_n):
                needed, loads = self.cost(rows, channels, target)
                cycles += row_tiles * panels * needed
                all_loads += row_tiles * panels * loads
        return cycles, all_loads

    def extents(self, layer: Layer) -> dict[str, int]:
        """Pixels, channels and the reduction."""
        return {
            "tile_m": pixels_of(layer),
            "tile_n": layer.out_channels,
            "unroll_k": layer.in_channels,
        }

    @property
    def panel(self) -> int:
        """Weights are packed by register tile."""
        return self.tile_n

    def tasks(self, layer: Layer) -> int:
        """Threads split whichever of the two loops has more tiles."""
        return max(self.row_tiles(layer), self.panel_count(layer))

    def body(self, layer: Layer, target: Target, operands: Operands) -> None:
        """Emit the nest of the module's docstring."""
        by_rows = self.row_tiles(layer) >= self.panel_count(layer)
        span = operands.span

        def rows() -> Iterator[tuple[Index, int]]:
            return tile_loop(pixels_of(layer), self.tile_m, span, shared=by_rows, name="m")

        def panels() -> Iterator[tuple[Index, int]]:
            return tile_loop(layer.out_channels, self.tile_n, span, shared=not by_rows, name="n")

        if self.order == "nm":
            for n, tile_n in panels():
                for m, tile_m in rows():
                    self.tile(layer, target, operands, m, tile_m, n, tile_n)
        else:
            for m, tile_m in rows():
                for n, tile_n in panels():
                    self.tile(layer, target, operands, m, tile_m, n, tile_n)

    @abstractmethod
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
        """Emit the tile of the pixels from m and the channels from n on."""

    def row_tiles(self, layer: Layer) -> int:
        """Tiles of the pixels."""
        return tile_count(pixels_of(layer), self.tile_m)

    def panel_count(self, layer: Layer) -> int:
        """Panels of the output channels."""
        return tile_count(layer.out_channels, self.tile_n)


def pixels_of(layer: Layer) -> int:
    """Rows of the matrix product."""
    return layer.batch * layer.height * layer.width


def _sizes(extent: int, tile: int) -> list[tuple[int, int]]:
    """[(size, how many tiles of it)] of a tile loop."""
    full, rest = divmod(extent, tile)
    return [(tile, full)] + ([(rest, 1)] if rest else [])
