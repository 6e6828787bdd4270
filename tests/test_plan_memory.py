"""Offsets in the workspace: aligned, apart while live, and as few bytes as can be."""

from itertools import combinations

import numpy as np
import pytest
from pass_networks import ALIGNMENT, FUSED, IDS, NETWORKS, byte_count, steps_of

from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.passes.list_steps import Step
from mnv2_tvm.passes.plan_memory import lifetimes, lower_bound, plan_memory


@FUSED
@pytest.mark.parametrize("architecture", NETWORKS, ids=IDS)
def test_every_step_reads_what_was_written_for_it(architecture: Architecture, fused: bool) -> None:
    """Run the plan on a model of the memory: each 64 bytes know which tensor wrote them last."""
    steps, _ = steps_of(architecture, fused)
    plan = plan_memory(steps)
    owner = np.full(plan.workspace_bytes // ALIGNMENT, "", dtype=object)
    sizes = {step.y: byte_count(step.layer) for step in steps}
    sizes |= {step.scratch: step.scratch_bytes for step in steps if step.scratch_bytes}

    def place(name: str) -> slice:
        start, length = plan.offsets[name] // ALIGNMENT, -(-sizes[name] // ALIGNMENT)
        assert start + length <= len(owner)
        return slice(start, start + length)

    for step in steps:
        if step.y != "output":
            owner[place(step.y)] = step.y
        if step.scratch_bytes:  # written while the output is
            owner[place(step.scratch)] = step.scratch
            assert step.y == "output" or set(owner[place(step.y)]) == {step.y}
        for name in step.reads:  # after the write: a kernel may not work in place
            if name != "input":
                assert set(owner[place(name)]) == {name}


@FUSED
@pytest.mark.parametrize("architecture", NETWORKS, ids=IDS)
def test_plan_is_aligned_and_as_small_as_can_be(architecture: Architecture, fused: bool) -> None:
    steps, _ = steps_of(architecture, fused)
    plan, tensors = plan_memory(steps), lifetimes(steps)
    scratch = {step.scratch: step.scratch_bytes for step in steps if step.scratch_bytes}
    slack = 1.02 if fused and architecture is NETWORKS[2] else 1.0
    assert plan.offsets.keys() == {step.y for step in steps} - {"output"} | scratch.keys()
    assert all(offset % ALIGNMENT == 0 for offset in plan.offsets.values())
    # First fit leaves a small gap beside the scratch of one of the networks.
    assert lower_bound(tensors) <= plan.workspace_bytes <= lower_bound(tensors) * slack
    assert plan.scratch_bytes % ALIGNMENT == 0
    assert 0 <= plan.scratch_bytes - max(scratch.values(), default=0) < ALIGNMENT
    # The bound, again, from the steps alone: what a step writes, reads, what waits beside it, and
    # its scratch memory.
    sizes = {step.y: -(-byte_count(step.layer) // ALIGNMENT) * ALIGNMENT for step in steps[:-1]}
    needs = [
        sum(
            size
            for name, size in sizes.items()
            if name in {step.y for step in steps[: index + 1]}
            and name in {n for step in steps[index:] for n in (*step.reads, steps[index].y)}
        )
        + -(-steps[index].scratch_bytes // ALIGNMENT) * ALIGNMENT
        for index in range(len(steps))
    ]
    assert lower_bound(tensors) == max(needs)


def test_tensors_that_are_live_together_lie_apart() -> None:
    """On shapes that no MobileNetV2 has: long-lived residuals across each other."""
    shapes = [(8, 3), (3, 8), (5, 5), (8, 1), (2, 7), (6, 6), (1, 1)]
    layers = [Layer.of("pwconv", 1, h, w, 16, 16, 1, "residual") for h, w in shapes]
    readers = [0, 0, 0, 1, 0, 2, 3]  # the step whose tensor is added
    scratch = [0, 100, 4000, 0, 64, 9999, 1]  # bytes
    steps = tuple(
        Step(
            layer=layer,
            kernel="k",
            tasks=1,
            reads=(
                f"t{index - 1}" if index else "input",
                *([f"t{reader}"] if index > reader + 1 else []),
            ),
            weights=(),
            y="output" if index == len(layers) - 1 else f"t{index}",
            scratch_bytes=extra,
        )
        for index, (layer, reader, extra) in enumerate(zip(layers, readers, scratch, strict=True))
    )
    plan = plan_memory(steps)
    live = {
        step.y: range(index, max(i for i, s in enumerate(steps) if step.y in s.reads) + 1)
        for index, step in enumerate(steps[:-1])
    }
    sizes = {step.y: byte_count(step.layer) for step in steps}
    for index, step in enumerate(steps):
        if step.scratch_bytes:
            live[step.scratch] = range(index, index + 1)
            sizes[step.scratch] = step.scratch_bytes
    for a, b in combinations(live, 2):
        if set(live[a]) & set(live[b]):
            first, second = sorted((a, b), key=plan.offsets.__getitem__)
            assert plan.offsets[first] + sizes[first] <= plan.offsets[second]
    assert plan.workspace_bytes >= lower_bound(lifetimes(steps))


def test_a_tensor_that_nobody_reads_has_a_place_of_its_own_step() -> None:
    layer = Layer.of("pwconv", 1, 4, 4, 16, 16)
    ends = [(("input",), "t0"), (("t0",), "unread"), (("t0",), "out_0"), (("out_0",), "out_1")]
    steps = tuple(Step(layer, "k", 1, reads, (), y) for reads, y in ends)
    found = {t.name: (t.first, t.last) for t in lifetimes(steps, ("out_0", "out_1"))}
    assert found == {"t0": (0, 2), "unread": (1, 1)}
    offsets = plan_memory(steps, ("out_0", "out_1")).offsets
    assert abs(offsets["t0"] - offsets["unread"]) >= byte_count(layer)
