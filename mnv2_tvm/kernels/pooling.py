"""Global average pooling.

for c in panels of tile_c:
  acc[tile_c] = 0                                           # registers
  for each pixel:
    acc[j] += x[pixel, c + j]
  y[c] = acc / pixels
"""

from dataclasses import dataclass
from typing import Self

from tvm.script.ir_builder import tirx as T

from mnv2_tvm.dtype import F32
from mnv2_tvm.kernels.loops import tile_count, tile_loop
from mnv2_tvm.kernels.registers import RegisterTile, broadcast, load, vectors
from mnv2_tvm.kernels.schedule import Operands, Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target


@dataclass(frozen=True)
class AveragePool(Schedule):
    """Decisions of global average pooling."""

    tile_c: int  # channels of the register tile

    @classmethod
    def computes(cls, layer: Layer) -> bool:
        """float32."""
        return (layer.operator, layer.dtype) == ("avgpool", F32)

    @classmethod
    def space(cls, layer: Layer, target: Target) -> list[Self]:
        """One to eight vectors of channels: enough adds in flight, no more code."""
        lanes = target.vector.lanes(layer.dtype)
        return [cls(c) for c in sorted({min(i * lanes, layer.in_channels) for i in range(1, 9)})]

    @classmethod
    def default(cls, layer: Layer, target: Target) -> Self:
        """As many vectors as hide the latency of an add."""
        vector = target.vector
        flying = vector.fma_latency * vector.fma_per_cycle
        return cls(min(flying * vector.lanes(layer.dtype), layer.in_channels))

    def extents(self, layer: Layer) -> dict[str, int]:
        """Channels."""
        return {
            "tile_c": layer.out_channels,
        }

    def registers(self, layer: Layer, target: Target) -> int:
        """The accumulators; inputs are memory operands."""
        return vectors(self.tile_c, target.vector.lanes(layer.dtype))

    @property
    def panel(self) -> int:
        """There are no weights; the tile all the same."""
        return self.tile_c

    def tasks(self, layer: Layer) -> int:
        """Threads split the channels."""
        return tile_count(layer.in_channels, self.tile_c)

    def body(self, layer: Layer, target: Target, operands: Operands) -> None:
        """Emit the nest of the module's docstring."""
        pixels, depth = layer.height * layer.width, layer.in_channels
        x = operands.x
        for n, _ in tile_loop(layer.batch, 1, operands.span, name="n"):
            for c, tile_c in tile_loop(depth, self.tile_c, operands.span, shared=True, name="c"):
                acc = RegisterTile(1, tile_c, target.vector)
                acc.fill(lambda row, j, lanes: broadcast(T.float32(0), lanes))
                for pixel, _ in tile_loop(pixels, 1, operands.span, name="pixel"):
                    start = (n * pixels + pixel) * depth + c
                    acc.accumulate(0, lambda j, lanes, at=start: load(x, at + j, lanes))  # type: ignore[misc]
                acc.scale(1 / pixels)
                at = n * depth + c
                acc.store(operands.y, lambda row, j, at=at: at + j, relu6=False)  # type: ignore[misc]
