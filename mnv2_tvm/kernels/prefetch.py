"""Fetch the weights that come next while those at hand are used.

The weights of a network are more than L2 holds, so a layer's come from far away in every run.
Panels of weights lie one behind the other, and behind the last one the next layer's weights.

A layer of one pixel, the classifier, uses each weight once: it takes as long as its weights take to
come from memory. The layer before it, which has time to spare, fetches them.
"""

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mnv2_tvm.kernels.loops import Index
from mnv2_tvm.target import Target

_LINE = 16  # float32 values of a cache line
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

    @classmethod
    def share(cls, buffer: Any, end: int, number: Index, tiles: int, total_bytes: int) -> "Ahead":
        """That of tile `number` of `tiles`, of `total_bytes` that follow `end` in the buffer."""
        lines = -(-total_bytes // (4 * _LINE * tiles))
        return cls(buffer, end + number * lines * _LINE, lines)

    def each(self, steps: int) -> int:
        """Lines that each of the first steps of the reduction fetches."""
        return -(-self.lines // steps)

    def fetch(self, step: Index, each: int) -> None:
        """Emit the prefetches of one step."""
        for line in range(each):
            address = T.address_of(self.buffer[self.start + (step * each + line) * _LINE])
            T.evaluate(tirx.call_intrin("void", "tirx.prefetch", address, _READ, _INTO_L2, _DATA))
