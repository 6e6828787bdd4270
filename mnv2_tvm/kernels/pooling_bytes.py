"""Quantised global average pooling.

for c in panels of tile_c:
  acc[tile_c] = bias                                        # int32, in registers
  for each pixel:
    acc[j] += x[pixel, c + j]
  y[c] = requantised acc, with one multiplier for all channels

The bias is minus the zero point of all pixels; the multiplier has their number in it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm.script.ir_builder import tirx as T

from mnv2_tvm.dtype import QS8
from mnv2_tvm.kernels.loops import Index, tile_loop
from mnv2_tvm.kernels.pooling import AveragePool
from mnv2_tvm.kernels.registers import RegisterTile, Value, broadcast, load
from mnv2_tvm.kernels.requantise import kind, store_tile
from mnv2_tvm.kernels.schedule import Operands
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target


@dataclass(frozen=True)
class AveragePoolBytes(AveragePool):
    """The decisions of the kernel of bytes."""

    @classmethod
    def computes(cls, layer: Layer) -> bool:
        """Quantised."""
        return (layer.operator, layer.dtype) == ("avgpool", QS8)

    @classmethod
    def accepts(cls, layer: Layer, target: Target) -> bool:
        """Where layers before it can be done."""
        return cls.computes(layer) and target.vector.dot.qs8 is not None

    def body(self, layer: Layer, target: Target, operands: Operands) -> None:
        """Emit the nest of the module's docstring."""
        pixels, depth, span = layer.height * layer.width, layer.in_channels, operands.span
        for n, _ in tile_loop(layer.batch, 1, span, name="n"):
            for c, tile_c in tile_loop(depth, self.tile_c, span, shared=True, name="c"):
                acc = RegisterTile(1, tile_c, target.vector, QS8)
                acc.fill(lambda row, j, lanes: broadcast(operands.bias[0], lanes))
                for pixel, _ in tile_loop(pixels, 1, span, name="pixel"):
                    start = (n * pixels + pixel) * depth + c
                    acc.accumulate(0, partial(_widened, operands.x, start))
                store_tile(layer, operands, acc.values(0), n * depth + c, c)


def _widened(x: Any, start: Index, channel: int, lanes: int) -> Value:
    return T.Cast(kind("int32", lanes), load(x, start + channel, lanes))
