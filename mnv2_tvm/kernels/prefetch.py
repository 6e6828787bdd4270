"""Fetch the weights that come next while those at hand are used.

The weights of a network are more than L2 holds, so a layer's come from far away in every run.
Panels of weights lie one behind the other, and behind the last one the next layer's weights.

A layer of one pixel, the classifier, uses each weight once: it takes as long as its weights take to
come from memory. The layer before it, which has time to spare, fetches them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mnv2_tvm.kernels.loops import Index, Span, tile_loop
from mnv2_tvm.target import Target

_LINE = 64  # bytes of a cache line
_FAR = 4  # so many times L1: fewer weights are little to wait for
_READ, _INTO_L2, _DATA = 0, 2, 1  # of LLVM's prefetch


def are_far(weight_bytes: int, target: Target) -> bool:
    """Whether a layer's weights are worth fetching, and there is a cache to fetch them into."""
    cache = target.cache
    return weight_bytes > _FAR * cache.l1_bytes and cache.l2_bytes > cache.l1_bytes


@dataclass(frozen=True)
class Ahead:
    """Cache lines that one reduction fetches: `lines` of them from `buffer[start]` on."""

    buffer: Any
    start: Index
    lines: int
    line: int  # values of one

    @classmethod
    def share(
        cls,
        buffer: Any,
        end: Index,
        number: Index,
        tiles: int,
        total_bytes: int,
        value_bytes: int = 4,
    ) -> "Ahead":
        """That of tile `number` of `tiles`, of `total_bytes` that follow `end` in the buffer."""
        lines, line = -(-total_bytes // (_LINE * tiles)), _LINE // value_bytes
        return cls(buffer, end + number * lines * line, lines, line)

    def each(self, steps: int) -> int:
        """Lines that each of the first steps of the reduction fetches."""
        return -(-self.lines // steps)

    def fetch(self, step: Index, each: int) -> None:
        """Emit the prefetches of one step."""
        for line in range(each):
            address = T.address_of(self.buffer[self.start + (step * each + line) * self.line])
            T.evaluate(tirx.call_intrin("void", "tirx.prefetch", address, _READ, _INTO_L2, _DATA))


def reduction(steps: int, unroll: int, span: Span, ahead: Ahead | None) -> Iterator[Index]:
    """Emit the loop over the steps of a reduction; the first of them fetch what is ahead."""
    each = ahead.each(steps) if ahead else 0
    fetching = min(steps, -(-ahead.lines // (each * unroll)) * unroll) if ahead else 0
    for base, extent in ((0, fetching), (fetching, steps - fetching)):
        for first, count in tile_loop(extent, unroll, span, name="k"):
            for k in (base + first + step for step in range(count)):
                if ahead and base < fetching:
                    ahead.fetch(k, each)
                yield k
