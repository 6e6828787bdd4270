"""From the int32 sums of a quantised layer to what it stores: the same bits on every machine.

    scaled = f32(f32(acc) * multiplier[n])
    y = clamp(rne(scaled) + y_zero)                                     to 0..255: also ReLU6
    y = scaled                                                          logits: float32
    p = clamp(rne(scaled))                                              residual: in its own scale,
    y = clamp(rne(fma(p, p_factor, f32((x - x_zero) * x_factor))) + y_zero)     from least to most

`rne` rounds to the nearest integer, ties to even; what it rounds is below 2**31, to which whoever
makes the multipliers sees. The fused multiply-add is said by name: LLVM would contract other sums
as well, which rounds once where two roundings are meant.
"""

from itertools import groupby
from typing import Any

from tvm.script.ir_builder import tirx as T

from mnv2_tvm.kernels.loops import Index
from mnv2_tvm.kernels.registers import Value, broadcast, cut, load
from mnv2_tvm.kernels.schedule import Operands
from mnv2_tvm.layer import Layer

_BLOCK = 4  # int32 of 128 bits, on which packing instructions work
_PACKS = {  # by int32 lanes: saturating to int16, and to uint8
    8: ("avx2.packssdw", "avx2.packuswb"),
    16: ("avx512.packssdw.512", "avx512.packuswb.512"),
}


def store(
    layer: Layer, o: Operands, sums: list[Value], lanes: int, where: tuple[Index, Index, int]
) -> None:
    """Store the neighbouring channels of a pixel whose sums these vectors are.

    `where` is the first one's place in the output, its place among the multipliers, and how many
    there are; those past them only fill the last vector.
    """
    index, start, channels = where
    own = o.parts[-1]

    def multiplier(at: Index) -> Value:
        if layer.weight_shape is None:  # pooling: one for all channels
            return broadcast(own["multiplier"][0], lanes)
        return load(own["multiplier"], at, lanes)

    scaled = [
        T.Cast(kind("float32", lanes), value) * multiplier(start + number * lanes)
        for number, value in enumerate(sums)
    ]
    if layer.epilogue == "logits":
        _store_values(o.y, index, scaled, lanes, channels)
        return
    if layer.epilogue == "residual":
        added = [
            load_some(o.residual, index + first, lanes, min(lanes, channels - first))
            for first in range(0, channels, lanes)
        ]
        scaled = [_add(own["addition"], p, x, lanes) for p, x in zip(scaled, added, strict=True)]
    values = [_nearest(value, lanes) for value in scaled]
    _store_bytes(o.y, index, values, own["zeros"][0], lanes, channels)


def store_tile(
    layer: Layer, o: Operands, sums: list[tuple[int, int, Value]], index: Index, start: Index
) -> None:
    """The same of vectors of several widths: [(first channel, lanes, int32 sums)]."""
    for lanes, vectors in groupby(sums, key=lambda vector: vector[1]):
        group = list(vectors)
        first = group[0][0]
        where = (index + first, start + first, lanes * len(group))
        store(layer, o, [value for _, _, value in group], lanes, where)


def kind(name: str, lanes: int) -> str:
    """The type of a scalar or a vector."""
    return name if lanes == 1 else f"{name}x{lanes}"


def _nearest(value: Value, lanes: int) -> Value:
    """int32 of a float32: in one instruction, in the rounding mode that programs start with."""
    names = ".i32.f32" if lanes == 1 else f".v{lanes}i32.v{lanes}f32"
    return T.call_llvm_pure_intrin(kind("int32", lanes), f"llvm.lrint{names}", value)


def _add(addition: Any, scaled: Value, x: Value, lanes: int) -> Value:
    """The sum of a residual addition before it is rounded."""
    least, most, x_zero, p_factor, x_factor = (broadcast(addition[i], lanes) for i in range(5))
    single, name = kind("float32", lanes), "f32" if lanes == 1 else f"v{lanes}f32"
    p = T.call_llvm_pure_intrin(single, f"llvm.roundeven.{name}", scaled)
    p = T.min(T.max(p, least), most)
    skip = (T.Cast(single, T.Cast(kind("int32", lanes), x)) - x_zero) * x_factor
    return T.call_llvm_pure_intrin(single, f"llvm.fma.{name}", p, p_factor, skip)


def load_some(buffer: Any, index: Index, lanes: int, count: int) -> Value:
    """A vector of bytes of which only the first `count` are read; the others are 0."""
    pieces = cut(count, lanes)
    values = [load(buffer, index + at, width) for at, width in pieces]
    if pieces == [(0, lanes)]:
        return values[0]
    return T.Shuffle([*values, T.broadcast(T.uint8(0), lanes)], list(range(lanes)))


def _store_bytes(
    buffer: Any, index: Index, values: list[Value], zero: Value, lanes: int, channels: int
) -> None:
    """clamp(value + zero) of int32 vectors: four, two or one at a time."""
    done = 0
    while done < len(values):
        several = [count for count in (4, 2) if lanes in _PACKS and len(values) - done >= count]
        count = several[0] if several else 1
        group = values[done : done + count]
        result = _pack(group, zero, lanes) if several else _clamp(group[0], zero, lanes)
        first, width = done * lanes, count * lanes
        _store_values(buffer, index + first, [result], width, min(width, channels - first))
        done += count


def _clamp(value: Value, zero: Value, lanes: int) -> Value:
    low, high = (broadcast(T.int32(bound), lanes) for bound in (0, 255))
    byte = T.min(T.max(value + broadcast(zero, lanes), low), high)
    return T.Cast(kind("uint8", lanes), byte)


def _pack(values: list[Value], zero: Value, lanes: int) -> Value:
    """The same of two or four vectors by saturating packs, which take turns in blocks of 128 bits.

    Saturation to int16 before the zero point is added changes nothing: what it cuts is far outside.
    """
    to_words, to_bytes = _PACKS[lanes]
    words = f"int16x{2 * lanes}"
    shift = T.broadcast(T.Cast("int16", zero), 2 * lanes)
    halves = []
    for left, right in zip(values[::2], values[1::2], strict=True):
        half = T.call_llvm_pure_intrin(words, f"llvm.x86.{to_words}", left, right)
        halves.append(T.call_llvm_pure_intrin(words, f"llvm.sadd.sat.v{2 * lanes}i16", half, shift))
    name = f"uint8x{4 * lanes}"
    packed = T.call_llvm_pure_intrin(name, f"llvm.x86.{to_bytes}", halves[0], halves[-1])
    places = [
        block * 4 * _BLOCK + vector * _BLOCK + lane
        for vector in range(len(values))
        for block in range(lanes // _BLOCK)
        for lane in range(_BLOCK)
    ]
    return T.Shuffle([packed], places)


def _store_values(
    buffer: Any, index: Index, values: list[Value], lanes: int, channels: int
) -> None:
    """Write the first `channels` of the vectors."""
    for number, value in enumerate(values):
        first = number * lanes
        for at, width in cut(min(lanes, channels - first), lanes):
            part = value
            if width < lanes:
                part = T.Shuffle([value], list(range(at, at + width)))
            place = index + first + at
            T.buffer_store(buffer, part, [place if width == 1 else T.ramp(place, 1, width)])
