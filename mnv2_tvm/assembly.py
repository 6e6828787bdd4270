"""What LLVM made of a schedule: FMAs and spills in its innermost loops, read from the assembly.

In quantised kernels the dot products of bytes or words are what FMAs are in others.
"""

import re
from dataclasses import dataclass

import tvm

from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.passes.lower_kernels import lower_kernels
from mnv2_tvm.target import Target

# x86, AArch64 and ARMv7 with vector operands, Cortex-M; moves, loads and broadcasts are no
# arithmetic.
_FMA = re.compile(
    r"vpdpbusd|vpmaddwd|sdot\s|vfn?m(add|sub)\d*ps|fml[as]\s+v|vfm[as]\.f32|vml[as]\.f32"
)
_OTHER = re.compile(
    r"vp(add|sub|and|or|s[rl]l|sra|max|min|shuf|unpck|pack|mov[sz]x)"
    r"|v(add|sub|mul|max|min|div)ps|f(add|sub|mul|max|min|maxnm|minnm|div)\s+v"
    r"|v(add|sub|mul|max|min|maxnm|minnm)\.f32"
)
_VECTOR = re.compile(r"%[xyz]mm\d|\b[qvds]\d")
# A register that points into the stack: the stack pointer, and what is copied from it.
_STACK_POINTERS = {"%rsp", "sp"}
_COPY = re.compile(
    r"(?:mov|add|sub)\s+[rx]\d+, (?P<from>\w+)"
    r"|(?:movq\s+|leaq\s+-?\d*\()(?P<base>%r\w+)\)?, %r\w+$"
)
_WRITTEN = re.compile(r"\s+(?!st|cmp|b)[a-z][\w.]*\s+(?:(?P<arm>[rx]\d+)\b|.*, (?P<x86>%r\w+)$)")
_ADDRESS = re.compile(r"\[(\w+)|\((%\w+)|v(?:ld|st)m\w+\s+(\w+)")
_LABEL = re.compile(r"^(\.?L[\w.$]+):")
_BRANCH = re.compile(
    r"^\s+(j\w+|b|b\.\w+|b[a-z]{2}(?:\.w)?|cbn?z|tbn?z)\s+(?:.*,\s*)?(\.?L[\w.$]+)"
)


@dataclass(frozen=True)
class InnerLoop:
    """One innermost loop: vector instructions of each kind."""

    fmas: int
    other_arithmetic: int
    spills: int  # that read or write the stack: registers that did not suffice

    @property
    def fma_share(self) -> float:
        """FMAs among all vector arithmetic; 1 where there is none."""
        arithmetic = self.fmas + self.other_arithmetic
        return self.fmas / arithmetic if arithmetic else 1.0


def assembly(layer: Layer, schedule: Schedule, target: Target) -> str:
    """The assembly of one kernel for the target."""
    lowered = lower_kernels(tvm.IRModule({"kernel": schedule.emit(layer, target)}), target)
    module = tvm.get_global_func("target.build.llvm")(lowered, target.codegen())
    text: str = module.inspect_source("asm")
    return text


def inner_loops(text: str) -> list[InnerLoop]:
    """The loops without a loop inside, in the order of the code.

    A loop is what lies between a label and a branch back to it.
    """
    lines = text.splitlines()
    spills = _stack_accesses(lines)
    places = {match[1]: n for n, line in enumerate(lines) if (match := _LABEL.match(line))}
    spans = []
    for end, line in enumerate(lines):
        match = _BRANCH.match(line)
        start = places.get(match[2]) if match else None
        if start is not None and start <= end:
            spans.append((start, end))
    innermost = [
        span
        for span in dict.fromkeys(spans)
        if not any(o != span and span[0] <= o[0] and o[1] <= span[1] for o in spans)
    ]
    return [_count(lines, range(start, end + 1), spills) for start, end in sorted(innermost)]


def hot_loop(layer: Layer, schedule: Schedule, target: Target) -> InnerLoop | None:
    """The innermost loop with the most FMAs: where the time goes. None if all is unrolled."""
    loops = [loop for loop in inner_loops(assembly(layer, schedule, target)) if loop.fmas]
    return max(loops, key=lambda loop: loop.fmas, default=None)


def _stack_accesses(lines: list[str]) -> set[int]:
    """Numbers of the lines in which a vector instruction reads or writes the stack."""
    pointers = set(_STACK_POINTERS)
    found = set()
    for number, line in enumerate(lines):
        if _VECTOR.search(line):
            bases = {base for match in _ADDRESS.finditer(line) for base in match.groups()}
            if bases & pointers:
                found.add(number)
        elif written := _WRITTEN.match(line):
            copy = _COPY.search(line)
            source = copy and (copy["from"] or copy["base"])
            register = written["arm"] or written["x86"]
            if source in pointers:
                pointers.add(register)
            else:
                pointers -= {register} - _STACK_POINTERS
    return found


def _count(lines: list[str], loop: range, spills: set[int]) -> InnerLoop:
    def count(pattern: re.Pattern[str]) -> int:
        return sum(bool(pattern.search(lines[number])) for number in loop)

    return InnerLoop(count(_FMA), count(_OTHER), len(spills & set(loop)))
