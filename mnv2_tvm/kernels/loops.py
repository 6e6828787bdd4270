"""Loops over tiles, for any extent: full tiles in a loop, border and left-over tiles peeled.

The generators emit TIR loops through TVM's IR builder, so that a kernel reads as its loop nest:

    for y, rows in tile_loop(layer.out_height, tile_y, span, shared=True):
        for x, columns in tile_loop(layer.out_width, tile_x, span):
            ...

`rows` is a Python integer, so the body can be unrolled while it is emitted. `y` is a Python
integer in a peeled tile and a TIR expression inside a loop.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mnv2_tvm.window import Window

Index = Any  # a Python int or an integer TIR expression


@dataclass(frozen=True)
class Span:
    """The part [first, last) of the tiles of one loop that the calling thread does."""

    first: Index  # not negative, which LLVM does not know
    last: Index

    def opaque(self, extent: int) -> Index:
        """`extent` as a bound that LLVM cannot see through, so that it unrolls no loop.

        The kernel unrolls what should be. LLVM would make one body of the tiles of a short loop
        and spill: it counts instructions, not registers.
        """
        return T.max(T.int32(extent), -self.first)


def tile_count(extent: int, tile: int) -> int:
    """Tiles of `tile` that cover `extent`."""
    return -(-extent // tile)


def tile_loop(
    extent: int,
    tile: int,
    span: Span,
    *,
    shared: bool = False,
    peel_first: bool = False,
    peel_last: bool = False,
    name: str = "i",
) -> Iterator[tuple[Index, int]]:
    """Emit a loop over `extent` in steps of `tile`; yields (start, size) once for each body.

    A left-over tile, and the first and last tile where asked, get a body of their own, in which
    `start` is a Python int. Of the loop that threads share, only the tiles of `span` run.
    """
    count = tile_count(extent, tile)
    full = extent // tile
    begin = min(int(peel_first), full)
    end = full - 1 if peel_last and full == count and full > begin else full
    if end - begin == 1:  # a loop of one is a peeled tile
        begin = end
    for index in range(begin):
        yield from _peeled(index, index * tile, tile, span if shared else None)
    if end > begin:
        low = T.max(span.first, T.int32(begin)) if shared else begin
        high = T.min(span.last, T.int32(end)) if shared else span.opaque(end)
        with T.serial(low, high) as index:
            IRBuilder.name(name if tile == 1 else f"{name}o", index)
            yield index * tile, tile
    for index in range(end, count):
        size = min(tile, extent - index * tile)
        yield from _peeled(index, index * tile, size, span if shared else None)


def window_loop(
    out_extent: int,
    in_extent: int,
    window: Window,
    tile: int,
    span: Span,
    *,
    shared: bool = False,
    name: str = "i",
) -> Iterator[tuple[Index, int]]:
    """`tile_loop` over the outputs of a window that `is_peelable`.

    Tiles whose windows reach outside the input are peeled, so that their outer taps can be left
    out while the body is emitted: see `inside`.
    """
    last = (out_extent - 1) * window.stride - window.before + window.reach - 1
    return tile_loop(
        out_extent,
        tile,
        span,
        shared=shared,
        peel_first=window.before > 0,
        peel_last=last >= in_extent,
        name=name,
    )


def is_peelable(window: Window) -> bool:
    """3x3 with at most one zero at each end: only the first and the last tile reach outside."""
    near = max(window.before, window.after) <= 1
    return window.size == 3 and window.dilation == 1 and window.stride in (1, 2) and near


def inside(index: Index, extent: int) -> bool:
    """Whether an input index may be read. Only peeled tiles, with known indices, can be outside."""
    return not isinstance(index, int) or 0 <= index < extent


def _peeled(index: int, start: int, size: int, span: Span | None) -> Iterator[tuple[Index, int]]:
    if span is None:
        yield start, size
        return
    with T.If(T.And(span.first <= index, index < span.last)), T.Then():
        yield start, size
