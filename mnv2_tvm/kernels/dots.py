"""How a machine multiplies uint8 by int8: four neighbouring values of k in each lane of int32.

A step of a reduction takes a word of four values from each pixel, the same in every lane, and four
weights of each channel. It is exact: no instruction that saturates is used.

    vpdpbusd    one instruction: acc += the sum of four products
    sdot        the same of int8 by int8: inputs are taken less 128, which the bias makes good
    vpmaddwd    on pairs of int16: even and odd values of the word are parted by a mask and a
                shift, once for all channels; the weights are widened, once for all pixels
"""

from abc import ABC, abstractmethod
from typing import Any, Literal

from tvm.script.ir_builder import tirx as T

from mnv2_tvm.kernels.registers import Value, load

WORD = 4  # values of k in a step

DotName = Literal["vpdpbusd", "vpmaddwd", "sdot"]  # as target files name them


class Dot(ABC):
    """One way to multiply; `lanes` is how many int32 a vector has."""

    groups: tuple[tuple[int, ...], ...]  # which k of a word stand side by side in the weights
    arithmetic: int  # instructions for a vector of channels of a pixel
    latency: int  # cycles between two of them that add to the same sums
    for_each_pixel: int  # further instructions of a step
    for_each_weight: int  # and for a vector of channels
    pixel_registers: int  # that a pixel takes, with constants
    weight_registers: int  # and the weights of a vector of channels
    less: int = 0  # what each input is taken less

    @abstractmethod
    def pixel(self, word: Value, lanes: int) -> Any:
        """The operand of a pixel, of its four values in an int32."""

    @abstractmethod
    def weights(self, buffer: Any, index: Any, lanes: int) -> Any:
        """The operand of `lanes` channels, of the packed weights from `index` on."""

    @abstractmethod
    def add(self, acc: Value, pixel: Any, weights: Any, lanes: int) -> Value:
        """The sums with the products of a step added."""


class Vpdpbusd(Dot):
    """AVX-512 VNNI."""

    groups = ((0, 1, 2, 3),)
    arithmetic = 1
    latency = 4
    for_each_pixel = for_each_weight = 0
    pixel_registers = weight_registers = 1

    def pixel(self, word: Value, lanes: int) -> Any:
        """The word in every lane."""
        return T.reinterpret(f"uint8x{WORD * lanes}", T.broadcast(word, lanes))

    def weights(self, buffer: Any, index: Any, lanes: int) -> Any:
        """As they lie in memory."""
        return load(buffer, index, WORD * lanes)

    def add(self, acc: Value, pixel: Any, weights: Any, lanes: int) -> Value:
        """One instruction."""
        name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
        return T.call_llvm_pure_intrin(f"int32x{lanes}", name, acc, pixel, weights)


class Vpmaddwd(Dot):
    """AVX2, and AVX-512 without VNNI."""

    groups = ((0, 2), (1, 3))
    arithmetic = 4
    latency = 2
    for_each_pixel = for_each_weight = 2
    pixel_registers, weight_registers = 3, 2

    def pixel(self, word: Value, lanes: int) -> Any:
        """The even values of the word and the odd ones, as int16."""
        pairs = T.reinterpret(f"uint16x{2 * lanes}", T.broadcast(word, lanes))
        even = T.bitwise_and(pairs, T.broadcast(T.uint16(255), 2 * lanes))
        odd = T.shift_right(pairs, T.broadcast(T.uint16(8), 2 * lanes))
        return [T.reinterpret(f"int16x{2 * lanes}", part) for part in (even, odd)]

    def weights(self, buffer: Any, index: Any, lanes: int) -> Any:
        """Of the even k and of the odd ones, widened."""
        pairs = 2 * lanes
        parts = [load(buffer, index + at, pairs) for at in (0, pairs)]
        return [T.Cast(f"int16x{pairs}", part) for part in parts]

    def add(self, acc: Value, pixel: Any, weights: Any, lanes: int) -> Value:
        """Two multiplications and two additions."""
        name = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}[lanes]
        for x, w in zip(pixel, weights, strict=True):
            acc = acc + T.call_llvm_pure_intrin(f"int32x{lanes}", f"llvm.x86.{name}", x, w)
        return acc


class Sdot(Dot):
    """Armv8.2 with the dot product."""

    groups = ((0, 1, 2, 3),)
    arithmetic = 1
    latency = 4
    for_each_pixel = for_each_weight = 0
    pixel_registers, weight_registers = 2, 1
    less = 128

    def pixel(self, word: Value, lanes: int) -> Any:
        """The word in every lane; a byte less 128 is the byte with another highest bit."""
        turned = T.bitwise_xor(T.broadcast(word, lanes), T.broadcast(T.int32(-0x7F7F7F80), lanes))
        return T.reinterpret(f"int8x{WORD * lanes}", turned)

    def weights(self, buffer: Any, index: Any, lanes: int) -> Any:
        """As they lie in memory."""
        return load(buffer, index, WORD * lanes)

    def add(self, acc: Value, pixel: Any, weights: Any, lanes: int) -> Value:
        """One instruction."""
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        return T.call_llvm_pure_intrin(f"int32x{lanes}", name, acc, weights, pixel)


DOTS: dict[DotName, Dot] = {"vpdpbusd": Vpdpbusd(), "vpmaddwd": Vpmaddwd(), "sdot": Sdot()}


def word(buffer: Any, index: Any) -> Value:
    """Four neighbouring bytes of a flat buffer as one int32."""
    return T.reinterpret("int32", load(buffer, index, WORD))


def word_of(values: list[Value]) -> Value:
    """The same of bytes that lie apart, as int32 from 0 to 255; where there are fewer, 0."""
    whole = values[0]
    for place, value in enumerate(values[1:], start=1):
        whole = T.bitwise_or(whole, T.shift_left(value, T.int32(8 * place)))
    return whole


def words(length: int) -> list[list[int | None]]:
    """Which of `length` neighbouring values each step multiplies; None has a weight of 0.

    Where four do not divide them the last word reaches back over some that are done, so that
    nothing behind them is read.
    """
    full = length - length % WORD
    steps: list[list[int | None]] = [list(range(at, at + WORD)) for at in range(0, full, WORD)]
    if rest := length % WORD:
        nothing: list[int | None] = [None] * (WORD - rest)
        own = list(range(full, length))
        steps.append([*nothing, *own] if full else [*own, *nothing])
    return steps
