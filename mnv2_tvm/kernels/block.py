"""The parts of a fused block: the addresses of its scratch memory, and the loops of each part.

The scratch memory of a thread holds the ring of expanded rows, [rows, pitch, chunk]: a row's pixels
after the zeros on the left and, where a window reaches so far, before those on the right. The
depthwise result, the strip, [rows, out width, chunk], stands behind the ring. A strip of one row is
laid over the oldest row of the ring instead: no later window reads what pixel x replaces, column x,
and the row is dead afterwards.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mnv2_tvm.dtype import F32
from mnv2_tvm.kernels.conv3x3 import convolve
from mnv2_tvm.kernels.depthwise import slide
from mnv2_tvm.kernels.loops import Index, tile_loop, window_loop
from mnv2_tvm.kernels.pointwise import multiply
from mnv2_tvm.kernels.registers import RegisterTile, broadcast, cut, load
from mnv2_tvm.kernels.schedule import Operands
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target
from mnv2_tvm.window import Window

Order = Literal["cyx", "yxc"]


@dataclass(frozen=True)
class Tiles:
    """Decisions of the fused block: the strip, the chunk, and a register tile for each part."""

    rows: int  # output rows of a strip
    chunk: int  # expanded channels of a pass over the image
    expand_m: int  # register tile of the expansion: pixels ...
    expand_n: int  # ... and channels
    tile_y: int  # register tile of the depthwise part
    tile_x: int
    tile_c: int
    order: Order  # its loops, outermost first
    project_m: int  # register tile of the projection
    project_n: int


class Block:
    """One chunk of channels of one image: the addresses of its scratch, and its three parts."""

    def __init__(
        self,
        tiles: Tiles,
        layer: Layer,
        target: Target,
        operands: Operands,
        image: Index,
        c: Index,
        chunk: int,
    ) -> None:
        self._tiles = tiles
        self._layer = layer
        self._vector = target.vector
        self._o = operands
        self._image = image
        self._c, self._chunk = c, chunk
        self._first, self._middle, self._last = layer.parts
        self._stride, self._before = self._middle.window.stride, self._middle.window.before
        self._ring_rows = ring_rows(tiles.rows, self._middle.window)
        self._columns = ring_columns(self._middle)
        self._pitch = self._columns * chunk  # floats of a row of the ring

    def _strip(self, y: Index) -> Index:
        """Where the strip at `y` starts."""
        if in_place(self._tiles.rows):
            return self._slot(y * self._stride - self._before)
        return self._ring_rows * self._columns * self._tiles.chunk

    def new_rows(self, y: Index, rows: int) -> Iterator[Index]:
        """Emit the loop over the rows under the strip at `y` that the ring does not hold yet."""
        stride, span = self._stride, self._o.span
        first_strip = span.first * self._tiles.rows
        reach = y * stride - self._before
        fresh = T.if_then_else(y == first_strip, reach, reach + 3 - stride)
        with T.serial(fresh, reach + (rows - 1) * stride + 3) as row:
            IRBuilder.name("row", row)
            yield row

    def expand(self, row: Index) -> None:
        """Fill one row of the ring; with zeros outside the image."""
        before = self._before
        start = self._slot(row) + before * self._chunk
        self._clear(start - before * self._chunk, before)
        if (right := self._columns - before - self._middle.width) > 0:
            self._clear(start + self._middle.width * self._chunk, right)
        with T.If(T.And(row >= 0, row < self._middle.height)):
            with T.Then():
                if self._layer.operator == "stem":
                    self._expand_image(row, start)
                else:
                    self._expand_pixels(row, start)
            with T.Else():
                self._clear(start, self._middle.width)

    def _expand_pixels(self, row: Index, start: Index) -> None:
        part, o, tiles = self._first, self._o, self._tiles
        weight, bias = o.parts[0]["weight"], o.parts[0]["bias"]
        depth = part.in_channels
        line = (self._image * part.height + row) * part.width
        for n, tile_n in tile_loop(self._chunk, tiles.expand_n, o.span, name="n"):
            for m, tile_m in tile_loop(part.width, tiles.expand_m, o.span, name="m"):
                acc = self._started(tile_m, tile_n, bias, self._c + n)
                multiply(
                    acc,
                    o.span,
                    (depth, 1),
                    lambda i, k, m=m: o.x[(line + m + i) * depth + k],  # type: ignore[misc]
                    lambda k, j, lanes, n=n, w=tile_n: load(  # type: ignore[misc]
                        weight, (self._c + n) * depth + k * w + j, lanes
                    ),
                )
                self._store_row(acc, start, m, n)

    def _expand_image(self, row: Index, start: Index) -> None:
        part, o, tiles = self._first, self._o, self._tiles
        weight, bias = o.parts[0]["weight"], o.parts[0]["bias"]
        depth, stride, before = part.in_channels, part.window.stride, part.window.before
        line = self._image * part.height
        last = T.min(3, part.height + before - row * stride)
        rows = (row, T.max(0, before - row * stride), last)
        for n, tile_n in tile_loop(self._chunk, tiles.expand_n, o.span, name="n"):
            for m, tile_m in window_loop(
                part.out_width, part.width, part.window, tiles.expand_m, o.span, name="m"
            ):
                acc = self._started(tile_m, tile_n, bias, self._c + n)
                convolve(
                    acc,
                    part,
                    o.span,
                    rows,
                    (m, tile_m),
                    lambda y, x, k: o.x[((line + y) * part.width + x) * depth + k],
                    lambda step, j, lanes, n=n, w=tile_n: load(  # type: ignore[misc]
                        weight, (self._c + n) * 9 * depth + step * w + j, lanes
                    ),
                )
                self._store_row(acc, start, m, n)

    def _started(self, rows: int, channels: int, bias: Any, first: Index) -> RegisterTile:
        """A register tile that holds the bias of its channels, from `first` on."""
        acc = RegisterTile(rows, channels, self._vector)
        acc.fill(lambda row, j, lanes: load(bias, first + j, lanes))
        return acc

    def _store_row(self, acc: RegisterTile, start: Index, m: Index, n: Index) -> None:
        acc.store(self._o.scratch, lambda i, j: start + (m + i) * self._chunk + n + j, relu6=True)

    def depthwise(self, y: Index, rows: int) -> None:
        """Fill the strip from the ring."""
        part, o, tiles = self._middle, self._o, self._tiles
        loops = {
            "c": lambda: tile_loop(self._chunk, tiles.tile_c, o.span, name="c"),
            "y": lambda: tile_loop(rows, tiles.tile_y, o.span, name="i"),
            "x": lambda: tile_loop(part.out_width, tiles.tile_x, o.span, name="x"),
        }
        outer, middle, inner = tiles.order
        for first in loops[outer]():
            for second in loops[middle]():
                for third in loops[inner]():
                    tile = {outer: first, middle: second, inner: third}
                    self._window(y, tile["y"], tile["x"], tile["c"])

    def _window(
        self,
        y: Index,
        rows: tuple[Index, int],
        columns: tuple[Index, int],
        channels: tuple[Index, int],
    ) -> None:
        part, o, chunk = self._middle, self._o, self._chunk
        (i, tile_y), (x, tile_x), (c, tile_c) = rows, columns, channels
        weight, bias = o.parts[1]["weight"], o.parts[1]["bias"]
        stride, strip = self._stride, self._strip(y)
        acc = self._started(tile_y * tile_x, tile_c, bias, self._c + c)

        def pixel(dy: int, dx: int, channel: int, lanes: int) -> Any:
            line = self._slot((y + i) * stride + (dy - self._before))
            return load(o.scratch, line + (x * stride + dx) * chunk + c + channel, lanes)

        slide(
            acc,
            (tile_y, tile_x, stride),
            pixel,
            lambda tap, j, lanes: load(weight, (self._c + c) * 9 + tap * tile_c + j, lanes),
        )

        def at(row: int, j: int) -> Index:
            line, column = i + row // tile_x, x + row % tile_x
            return strip + (line * part.out_width + column) * chunk + c + j

        acc.store(o.scratch, at, relu6=True)

    def project(self, y: Index, rows: int) -> None:
        """Add the strip's product to the output; the first chunk starts it."""
        part, o, tiles = self._last, self._o, self._tiles
        weight, bias = o.parts[2]["weight"], o.parts[2]["bias"]
        scratch: Any = o.scratch
        strip = self._strip(y)
        channels, hidden, chunk = part.out_channels, part.in_channels, self._chunk
        line = (self._image * part.out_height + y) * part.out_width
        for n, tile_n in tile_loop(channels, tiles.project_n, o.span, name="n"):
            for m, tile_m in tile_loop(rows * part.width, tiles.project_m, o.span, name="m"):
                acc = RegisterTile(tile_m, tile_n, self._vector)

                def at(i: int, j: int, m: Index = m, n: Index = n) -> Index:
                    return (line + m + i) * channels + n + j

                def start(i: int, j: int, lanes: int, at: Any = at, n: Index = n) -> Any:
                    value = load(bias, n + j, lanes)
                    return (
                        value if o.residual is None else value + load(o.residual, at(i, j), lanes)
                    )

                def more(i: int, j: int, lanes: int, at: Any = at) -> Any:
                    return load(o.y, at(i, j), lanes)

                self._fill(acc, start, more)
                multiply(
                    acc,
                    o.span,
                    (chunk, 1),
                    lambda i, k, m=m: scratch[strip + (m + i) * chunk + k],  # type: ignore[misc]
                    lambda k, j, lanes, n=n, w=tile_n: load(  # type: ignore[misc]
                        weight, n * hidden + (self._c + k) * w + j, lanes
                    ),
                )
                self._finish(acc, at)

    def _fill(self, acc: RegisterTile, start: Any, more: Any) -> None:
        if self._chunk == self._layer.hidden_channels:
            acc.fill(start)
        elif isinstance(self._c, int):
            acc.fill(more if self._c else start)
        else:
            with T.If(self._c == 0):
                with T.Then():
                    acc.fill(start)
                with T.Else():
                    acc.fill(more)

    def _finish(self, acc: RegisterTile, at: Any) -> None:
        """Store a tile of the output; ReLU6 is for the sum that the last chunk completes."""
        hidden = self._layer.hidden_channels
        if self._last.epilogue != "relu6":
            acc.store(self._o.y, at, relu6=False)
        elif self._chunk == hidden or isinstance(self._c, int):
            acc.store(self._o.y, at, relu6=self._c + self._chunk == hidden)
        else:
            with T.If(self._c + self._chunk == hidden):
                with T.Then():
                    acc.store(self._o.y, at, relu6=True)
                with T.Else():
                    acc.store(self._o.y, at, relu6=False)

    def _slot(self, row: Index) -> Index:
        """Where a row of the image stands in the ring; the first is that of the topmost zeros."""
        return T.truncmod(row + self._before, T.int32(self._ring_rows)) * self._pitch

    def _clear(self, start: Index, pixels: int) -> None:
        for pixel, _ in tile_loop(pixels, 1, self._o.span, name="pixel"):
            for channel, lanes in cut(self._chunk, self._vector.lanes(F32)):
                at = start + pixel * self._chunk + channel
                index = at if lanes == 1 else T.ramp(at, 1, lanes)
                T.buffer_store(self._o.scratch, broadcast(T.float32(0), lanes), [index])


def ring_rows(rows: int, window: Window) -> int:
    """Input rows that the windows of `rows` output rows reach."""
    return (rows - 1) * window.stride + 3


def ring_columns(middle: Layer) -> int:
    """Pixels of a row of the ring: what its windows reach, and no less than the row itself."""
    window = middle.window
    return max((middle.out_width - 1) * window.stride + 3, middle.width + window.before)


def in_place(rows: int) -> bool:
    """Whether a strip of so many rows is laid over the ring."""
    return rows == 1
