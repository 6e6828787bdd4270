"""Quantised depthwise 3x3 convolution, stride 1 or 2, in float32.

    the loops of `depthwise`:
      acc[tile_y, tile_x, tile_c] = 0                           # float32, in registers
      for each input pixel under the tile:                      # unrolled
        widened = float32 of input[pixel, c], or of the border's value outside the image
        for each tap that maps it to an output of the tile:
          acc[output] += widened * w[tap, c]
      y[...] = requantised int32(acc) + bias[c]

It is exact: nine products of a byte and a weight stay below 2**24. The bias may be larger, so it is
added in int32. Weights are float32 in memory: there are few of them, and FMAs read them there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from mnv2_tvm.dtype import QS8
from mnv2_tvm.kernels.depthwise import Depthwise, slide
from mnv2_tvm.kernels.loops import Index, inside, is_peelable
from mnv2_tvm.kernels.registers import RegisterTile, Value, broadcast, load
from mnv2_tvm.kernels.requantise import kind, store_tile
from mnv2_tvm.kernels.schedule import Operands
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target


@dataclass(frozen=True)
class DepthwiseBytes(Depthwise):
    """The decisions of the float32 kernel."""

    @classmethod
    def computes(cls, layer: Layer) -> bool:
        """Quantised, a window whose border can be peeled, and nothing to add."""
        mine = (layer.operator, layer.dtype) == ("dwconv", QS8) and layer.epilogue != "residual"
        return mine and is_peelable(layer.window)

    @classmethod
    def accepts(cls, layer: Layer, target: Target) -> bool:
        """Where layers beside it can be done."""
        return cls.computes(layer) and target.vector.dot.qs8 is not None

    def packed(self, layer: Layer) -> list[tuple[int, str]]:
        """Weights as float32."""
        return [
            (prod(p.shape), "float32" if p.role == "weight" else p.storage)
            for p in layer.parameters
        ]

    def pack_weight(self, weight: np.ndarray, widths: Sequence[int]) -> np.ndarray:
        """Panel after panel, widened."""
        return super().pack_weight(weight, widths).astype(np.float32)

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
        border = o.parts[0]["zeros"][1]
        acc = RegisterTile(tile_y * tile_x, tile_c, target.vector)
        acc.fill(lambda row, j, lanes: broadcast(T.float32(0), lanes))

        def pixel(dy: int, dx: int, c: int, lanes: int) -> Value:
            y, x = y0 * stride + (dy - before), x0 * stride + (dx - before)
            if not (inside(y, layer.height) and inside(x, layer.width)):
                return broadcast(T.Cast("float32", border), lanes)
            at = ((n * layer.height + y) * layer.width + x) * depth + c0 + c
            return T.Cast(
                kind("float32", lanes), T.Cast(kind("int32", lanes), load(o.x, at, lanes))
            )

        slide(
            acc,
            (tile_y, tile_x, stride),
            pixel,
            lambda tap, c, lanes: load(o.weight, c0 * 9 + tap * tile_c + c, lanes),
        )
        for row in range(tile_y * tile_x):
            y, x = y0 + row // tile_x, x0 + row % tile_x
            place = ((n * layer.out_height + y) * layer.out_width + x) * depth + c0
            sums = [
                (j, lanes, T.Cast(kind("int32", lanes), value) + load(o.bias, c0 + j, lanes))
                for j, lanes, value in acc.values(row)
            ]
            store_tile(layer, o, sums, place, c0)
