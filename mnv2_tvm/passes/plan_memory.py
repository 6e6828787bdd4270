"""Lay the tensors between the steps into one workspace, so that live ones never overlap."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from mnv2_tvm.passes.list_steps import Step, aligned


@dataclass(frozen=True)
class Lifetime:
    """A tensor from the step that writes it to the last that reads it."""

    name: str
    size: int  # bytes, aligned
    first: int
    last: int

    def meets(self, other: "Lifetime") -> bool:
        """Whether both are live during some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """Byte offset of each tensor in the workspace, and its size."""

    offsets: dict[str, int]
    workspace_bytes: int
    scratch_bytes: int = 0  # of every thread but the first, whose scratch is in the workspace


def plan_memory(steps: tuple[Step, ...], outputs: Collection[str] = ("output",)) -> Plan:
    """The smallest of several first-fit layouts; each tries another order of the tensors."""
    tensors = lifetimes(steps, outputs)
    orders: list[Callable[[Lifetime], tuple[int, int]]] = [
        lambda t: (-t.size, t.first),
        lambda t: (t.first, -t.size),
        lambda t: (t.first - t.last, -t.size),
        lambda t: (-t.size * (t.last - t.first + 1), t.first),
    ]
    layouts = [_first_fit(sorted(tensors, key=order)) for order in orders]
    scratch = max((aligned(step.scratch_bytes) for step in steps), default=0)
    return replace(min(layouts, key=lambda plan: plan.workspace_bytes), scratch_bytes=scratch)


def lifetimes(steps: tuple[Step, ...], outputs: Collection[str] = ("output",)) -> list[Lifetime]:
    """What lives in the workspace: all tensors but the caller's own, and scratch.

    A tensor that nobody reads lives while it is written.
    """
    read = {name: index for index, step in enumerate(steps) for name in step.reads}
    tensors = [
        Lifetime(step.y, aligned(step.layer.output_bytes), index, read.get(step.y, index))
        for index, step in enumerate(steps)
        if step.y not in outputs
    ]
    scratch = [
        Lifetime(step.scratch, aligned(step.scratch_bytes), index, index)
        for index, step in enumerate(steps)
        if step.scratch_bytes
    ]
    return tensors + scratch


def lower_bound(tensors: list[Lifetime]) -> int:
    """Bytes live during the worst step: no plan needs less."""
    steps = {tensor.first for tensor in tensors}
    live = (sum(t.size for t in tensors if t.first <= step <= t.last) for step in steps)
    return max(live, default=0)


def _first_fit(tensors: list[Lifetime]) -> Plan:
    placed: list[tuple[int, Lifetime]] = []
    for tensor in tensors:
        start = 0
        for offset, other in sorted(placed, key=lambda place: place[0]):
            if not tensor.meets(other):
                continue
            if offset - start >= tensor.size:
                break
            start = max(start, offset + other.size)
        placed.append((start, tensor))
    offsets = {tensor.name: offset for offset, tensor in placed}
    return Plan(offsets, max((offset + t.size for offset, t in placed), default=0))
