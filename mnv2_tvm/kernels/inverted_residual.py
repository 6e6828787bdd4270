"""A whole inverted residual block: the expanded tensor is never in memory.

    for c in chunks of the expanded channels:                   # one, or the paper's t-way split
      for y in strips of `rows` output rows:                    # threads share them
        for each new input row under the strip:
          ring[row] = relu6(x[row] * w_expand[c])               # pointwise; in a stem, 3x3
        strip = relu6(depthwise(ring))
        y[strip] (+)= strip * w_project[c]                      # bias and residual with the first

The ring holds the rows that the strip's windows reach, in padded form: a zero column on each side
and zero rows above and below the image, so that no window has a border. It and the strip are
the scratch memory of a thread. A thread computes the rows above its first strip itself.

After Sandler et al., MobileNetV2 (2018), section 5, memory efficient inference.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Self

from mnv2_tvm.kernels.block import Block, Order, Tiles, in_place, ring_columns, ring_rows
from mnv2_tvm.kernels.conv3x3 import Conv3x3
from mnv2_tvm.kernels.depthwise import Depthwise
from mnv2_tvm.kernels.loops import tile_count, tile_loop
from mnv2_tvm.kernels.pointwise import Pointwise
from mnv2_tvm.kernels.schedule import Operands, Schedule, panel_widths
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target

_WHOLE_IMAGE = 14  # output rows up to which a strip may be the whole image
_STRIP_COLUMNS = 112  # of all its rows: more keep no register tile busier, and the ring grows
_CHUNKS = (1, 2, 3, 4, 6)  # passes over the image
_TILES = 3  # register tiles tried for each dense part ...
_LIGHT_TILES = 2  # ... and those of a single vector


@dataclass(frozen=True)
class InvertedResidual(Tiles, Schedule):
    """The fused block with its decisions; `block.py` has its loops."""

    @classmethod
    def computes(cls, layer: Layer) -> bool:
        """Where the kernels of its parts do."""
        return (
            len(layer.parts) == 3
            and _dense(layer).computes(layer.parts[0])
            and Depthwise.computes(layer.parts[1])
            and Pointwise.computes(layer.parts[2])
        )

    @classmethod
    def space(cls, layer: Layer, target: Target) -> list[Self]:
        """Strips, chunks, and the best few register tiles of each part by their own rules."""
        lanes = target.vector.lanes(layer.dtype)
        hidden, height = layer.hidden_channels, layer.out_height
        heights = {1} | {rows for rows in (2, 4) if rows * layer.parts[1].width <= _STRIP_COLUMNS}
        if height <= _WHOLE_IMAGE:
            heights.add(height)
        chunks = {min(hidden, lanes * tile_count(hidden, lanes * count)) for count in _CHUNKS}
        return [
            point
            for rows, chunk in product(
                sorted({min(rows, height) for rows in heights}), sorted(chunks)
            )
            for point in cls._points(layer, target, rows, chunk)
        ]

    @classmethod
    def _points(cls, layer: Layer, target: Target, rows: int, chunk: int) -> Iterator[Self]:
        """Those with this strip and chunk, the likely best first."""
        expand, middle, project = layer.parts
        line = _best_tiles(replace(expand, height=1, out_channels=chunk), target)
        strip = _best_tiles(replace(project, height=rows), target)
        windows = _windows(replace(middle, in_channels=chunk, out_channels=chunk), target, rows)
        for (expand_m, expand_n), (project_m, project_n), window in product(line, strip, windows):
            yield cls(rows, chunk, expand_m, expand_n, *window, project_m, project_n)

    @classmethod
    def default(cls, layer: Layer, target: Target) -> Self:
        """All channels in one pass, the smallest strip, and the best tile of each part.

        In as many passes as the target's policy asks for, where they divide the channels.
        """
        hidden, passes = layer.hidden_channels, target.policy.passes
        chunk = hidden if hidden % passes else hidden // passes
        return next(cls._points(layer, target, 1, chunk))

    @classmethod
    def worthwhile(cls, layer: Layer, target: Target) -> bool:
        """If the weights, which stream once a strip, stay in L2 beside the scratch memory.

        Always, if the target's policy is so: what counts there is the RAM of the expanded tensor.
        """
        if target.policy.fuse == "always":
            return True
        weights = layer.dtype.bytes * layer.weight_count
        scratch = 4 * cls.default(layer, target).scratch_floats(layer)
        return weights + scratch <= target.cache.l2_bytes

    def extents(self, layer: Layer) -> dict[str, int]:
        """Of the whole block, not of a strip or a chunk."""
        return {
            "rows": layer.out_height,
            "chunk": layer.hidden_channels,
            "expand_m": layer.parts[0].out_width,
            "expand_n": layer.hidden_channels,
            "tile_y": layer.out_height,
            "tile_x": layer.out_width,
            "tile_c": layer.hidden_channels,
            "project_m": layer.out_height * layer.out_width,
            "project_n": layer.out_channels,
        }

    def registers(self, layer: Layer, target: Target) -> int:
        """Of the part that takes the most."""
        return max(part.registers(one, target) for part, one in self._parts(layer))

    def _parts(self, layer: Layer) -> list[tuple[Schedule, Layer]]:
        """The parts as kernels of their own, on the rows and channels that a pass has."""
        expand, middle, project = layer.parts
        first: Schedule = Pointwise(self.expand_m, self.expand_n, "nm", 1)
        if layer.operator == "stem":
            first = Conv3x3(self.expand_m, self.expand_n)
        chunk = min(self.chunk, layer.hidden_channels)
        depthwise = Depthwise(self.tile_y, self.tile_x, self.tile_c, self.order)
        return [
            (first, replace(expand, out_channels=chunk)),
            (depthwise, replace(middle, in_channels=chunk, out_channels=chunk)),
            (Pointwise(self.project_m, self.project_n, "nm", 1), project),
        ]

    @property
    def panel(self) -> int:
        """Of the projection."""
        return self.project_n

    def panels(self, layer: Layer) -> list[list[int]]:
        """Those of the expansion and the depthwise part do not cross a chunk."""
        chunks = panel_widths(layer.hidden_channels, self.chunk)
        return [
            [width for chunk in chunks for width in panel_widths(chunk, self.expand_n)],
            [width for chunk in chunks for width in panel_widths(chunk, self.tile_c)],
            panel_widths(layer.out_channels, self.project_n),
        ]

    def scratch_floats(self, layer: Layer) -> int:
        """The ring and the strip, unless that lies in the ring."""
        middle = layer.parts[1]
        ring = ring_rows(self.rows, middle.window) * ring_columns(middle)
        strip = 0 if in_place(self.rows) else self.rows * middle.out_width
        return (ring + strip) * min(self.chunk, layer.hidden_channels)

    def tasks(self, layer: Layer) -> int:
        """Threads split the strips."""
        return tile_count(layer.out_height, self.rows)

    def body(self, layer: Layer, target: Target, operands: Operands) -> None:
        """Emit the nest of the module's docstring."""
        span = operands.span
        for n, _ in tile_loop(layer.batch, 1, span, name="n"):
            for c, chunk in tile_loop(layer.hidden_channels, self.chunk, span, name="c"):
                block = Block(self, layer, target, operands, n, c, chunk)
                for y, rows in tile_loop(layer.out_height, self.rows, span, shared=True, name="y"):
                    for row in block.new_rows(y, rows):
                        block.expand(row)
                    block.depthwise(y, rows)
                    block.project(y, rows)


def _dense(layer: Layer) -> type[Conv3x3 | Pointwise]:
    """The kernel of the block's first part."""
    return Conv3x3 if layer.operator == "stem" else Pointwise


def _best_tiles(part: Layer, target: Target) -> list[tuple[int, int]]:
    """The few register tiles (pixels, channels) of a dense part that its own rules rank first.

    And the first ones of a single vector and few accumulators: more loads, but where an FMA reads
    its pixel from memory they are free, and the next tile's FMAs hide the epilogue.
    """
    if part.operator == "conv":
        ranked = [(p.tile_x, p.tile_n) for p in Conv3x3.ranked(part, target)]
    else:
        ranked = [(p.tile_m, p.tile_n) for p in Pointwise.ranked(part, target)]
    lanes, few = target.vector.lanes(part.dtype), target.vector.registers // 2
    light = [tile for tile in ranked if tile[0] <= few and tile[1] <= lanes]
    return list(dict.fromkeys(ranked[:_TILES] + light[:_LIGHT_TILES]))


def _windows(part: Layer, target: Target, rows: int) -> list[tuple[int, int, int, Order]]:
    """Register tiles of the depthwise part: rows, columns, channels; and the order of its loops."""
    shapes = [
        (1, 4, 1),
        (1, 2, 2),
        (2, 2, 1),
        (2, 2, 2),
        (1, 4, 2),
        (2, 4, 1),
        (1, 2, 1),
        (1, 1, 1),
    ]
    orders: tuple[Order, ...] = ("cyx", "yxc")
    windows = [
        (y, x, min(c * target.vector.lanes(part.dtype), part.out_channels), order)
        for (y, x, c), order in product(shapes, orders)
        if y <= rows
    ]
    # Odd channel counts are cut into many narrow vectors: then the smallest tile must do.
    taken = [Depthwise(*window).registers(part, target) for window in dict.fromkeys(windows)]
    budget = max(min(taken), target.vector.registers)
    return [w for w, count in zip(dict.fromkeys(windows), taken, strict=True) if count <= budget]
