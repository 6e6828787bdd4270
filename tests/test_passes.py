"""Each phase of the pipeline: what it refuses, and what holds of what it hands on."""

import functools
from collections.abc import Callable
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from conftest import TINY
from tvm import relax

from mnv2_tvm.errors import UserError
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture, fold_batch_norm
from mnv2_tvm.network import SourceNetwork, relative_error
from mnv2_tvm.passes.fuse_layers import fuse_layers
from mnv2_tvm.passes.list_steps import Step, list_steps
from mnv2_tvm.passes.plan_memory import lifetimes, lower_bound, plan_memory
from mnv2_tvm.passes.select_kernels import select_kernels
from mnv2_tvm.pipeline import (
    PHASES,
    compile_network,
    default_schedule,
    network_blocks,
    network_layers,
)
from mnv2_tvm.search.records import Decisions
from mnv2_tvm.target import Target

Image = tuple[int, ...]

NETWORKS = [
    Architecture(1.0, 224),
    Architecture(0.35, 32, classes=10),
    Architecture(0.5, 47, classes=1, batch=2),
    Architecture(1.4, 160),
    Architecture(0.75, 255, batch=3),
]
ALIGNMENT = 64  # bytes: the header asks it of the workspace, the widest vectors want it
NHWC = {"data_layout": "NHWC", "kernel_layout": "HWIO"}
IDS = [f"{a.width}-{a.resolution}-{a.batch}" for a in NETWORKS]
FUSED = pytest.mark.parametrize("fused", [False, True], ids=["layers", "blocks"])


def module_of(emit: Callable[[Any], Any], shape: Image = (1, 8, 8, 16)) -> Any:
    """A Relax module whose `main` is `emit` of its input [n, y, x, c]."""
    builder = relax.BlockBuilder()
    x = relax.Var("input", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            output = builder.emit_output(emit(x))
        builder.emit_func_output(output)
    return builder.get()


def constant(*shape: int) -> Any:
    return relax.const(np.ones(shape, np.float32))


def convolution(x: Any, weight: Image = (3, 3, 16, 8), **changes: Any) -> Any:
    """A 3x3 convolution with a bias, of the kind that has a kernel unless `changes` say else."""
    attributes = {"strides": (1, 1), "padding": (1, 1, 1, 1), **NHWC} | changes
    product = relax.op.nn.conv2d(x, constant(*weight), **attributes)
    return relax.op.add(product, constant(weight[-1]))


def channels_first(x: Any) -> Any:
    """A convolution over [n, c, y, x]."""
    product = relax.op.nn.conv2d(x, constant(8, 8, 3, 3), padding=(1, 1, 1, 1))
    return relax.op.add(product, constant(16))


def layers_of(emit: Callable[[Any], Any], shape: Image = (1, 8, 8, 16)) -> list[Layer]:
    return network_layers(module_of(emit, shape))


def depthwise(x: Any, stride: int) -> Any:
    """A depthwise convolution with a bias."""
    attributes = {"strides": (stride, stride), "padding": (1, 1, 1, 1), "groups": 16}
    layouts = {"data_layout": "NHWC", "kernel_layout": "HWOI"}
    product = relax.op.nn.conv2d(x, constant(3, 3, 16, 1), **attributes, **layouts)
    return relax.op.add(product, constant(16))


def pointwise(x: Any, channels: int = 16) -> Any:
    """A 1x1 convolution of 16 channels with a bias."""
    return convolution(x, (1, 1, 16, channels), padding=(0, 0, 0, 0))


def decisions_of(architecture: Architecture, target: Target, fused: bool) -> Decisions:
    """The defaults, or those that do every block layer by layer."""
    blocks = network_blocks(network_of(architecture).relax())
    return Decisions(target, {} if fused else dict.fromkeys(blocks))


@functools.cache
def steps_of(architecture: Architecture, fused: bool) -> tuple[tuple[Step, ...], bytes]:
    """The steps of a network for AVX2 and its weights."""
    target = Target.load("x86-avx2")
    choose = decisions_of(architecture, target, fused)
    return list_steps(select_kernels(fuse_layers(network_of(architecture).relax()), target, choose))


@functools.cache
def network_of(architecture: Architecture) -> SourceNetwork:
    return SourceNetwork.make(architecture, None, seed=0)


def byte_count(layer: Layer) -> int:
    """Of the output."""
    return 4 * prod(layer.output_shape)


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        (relax.op.nn.relu, "relax.nn.relu"),
        (relax.op.nn.softmax, "relax.nn.softmax"),
        (relax.op.nn.gelu, "relax.nn.gelu"),
        (relax.op.nn.max_pool2d, "relax.nn.max_pool2d"),
        (lambda x: relax.op.add(x, x), "relax.add"),
        (lambda x: relax.op.clip(x, 0, 6), "relax.clip"),
    ],
    ids=["relu", "softmax", "gelu", "max_pool2d", "add", "clip"],
)
@pytest.mark.parametrize("between", [False, True], ids=["alone", "between-two-layers"])
def test_an_operator_without_a_kernel_is_named(
    operator: Callable[[Any], Any], name: str, between: bool
) -> None:
    def network(x: Any) -> Any:
        return convolution(operator(relax.op.clip(pointwise(x), 0, 6)))

    with pytest.raises(UserError, match=f"no kernel for {name} at "):
        fuse_layers(module_of(network if between else operator))


def test_attributes_of_a_kernel_are_accepted() -> None:
    """What the refusals below change one attribute of."""
    assert layers_of(convolution) == [Layer("conv", 1, 8, 8, 16, 8, 1, "linear")]
    assert layers_of(lambda x: relax.op.clip(convolution(x), 0, 6)) == [
        Layer("conv", 1, 8, 8, 16, 8)
    ]
    assert layers_of(lambda x: depthwise(x, 2)) == [Layer("dwconv", 1, 8, 8, 16, 16, 2, "linear")]
    assert layers_of(lambda x: relax.op.add(x, pointwise(x))) == [
        Layer("pwconv", 1, 8, 8, 16, 16, 1, "residual")
    ]
    assert layers_of(lambda x: relax.op.mean(x, [1, 2])) == [
        Layer("avgpool", 1, 8, 8, 16, 16, 1, "linear")
    ]


@pytest.mark.parametrize(
    ("emit", "what"),
    [
        (lambda x: convolution(x, dilation=(2, 2)), "dilated convolution"),
        (channels_first, r"layouts \('NCHW', 'OIHW'\)"),
        (lambda x: relax.op.clip(convolution(x), 0, 4), r"clip to \[0.0, 4.0\]"),
        (lambda x: relax.op.clip(convolution(x), -1, 6), r"clip to \[-1.0, 6.0\]"),
        (lambda x: convolution(x, strides=(3, 3)), r"strides \[3, 3\]"),
        (lambda x: convolution(x, strides=(1, 2)), r"strides \[1, 2\]"),
        (lambda x: convolution(x, padding=(0, 0, 0, 0)), "3x3 with padding"),
        (lambda x: convolution(x, padding=(0, 0, 1, 1)), "3x3 with padding"),
        (lambda x: convolution(x, (1, 1, 16, 8)), "1x1 with padding"),
        (lambda x: convolution(x, (5, 5, 16, 8), padding=(2, 2, 2, 2)), "5x5 window"),
        (lambda x: convolution(x, (3, 3, 8, 8), groups=2), "convolution with 2 groups"),
        (
            lambda x: convolution(x, (1, 1, 16, 8), padding=(0, 0, 0, 0), strides=(2, 2)),
            "1x1 window",
        ),
        (lambda x: relax.op.mean(x, [1]), r"mean over axes \[1\]"),
        (lambda x: relax.op.mean(x, [2, 3]), r"mean over axes \[2, 3\]"),
    ],
)
def test_attributes_that_no_kernel_has_are_named(emit: Callable[[Any], Any], what: str) -> None:
    with pytest.raises(UserError, match=f"no kernel for {what}"):
        layers_of(emit)


def test_the_pipeline_hands_a_users_error_on() -> None:
    """Whether an operator has no kernel, or the schedule of a layer cannot be had."""
    target = Target.load("x86-avx2")

    def refuse(layer: Layer) -> Any:
        raise UserError(f"no schedule for {layer.name}")

    dilated = module_of(lambda x: convolution(pointwise(x), dilation=(2, 2)))
    with pytest.raises(UserError, match="no kernel for dilated convolution"):
        compile_network(dilated, target, functools.partial(default_schedule, target=target))
    with pytest.raises(UserError, match="no schedule for f32-conv"):
        compile_network(network_of(TINY).relax(), target, refuse)


def halved(x: Any) -> Any:
    """A residual that would be broadcast: [n, 1, 1, c] to [n, y, x, c]."""
    features = pointwise(x)
    return relax.op.add(relax.op.mean(features, [1, 2], keepdims=True), pointwise(features))


def doubled(x: Any) -> Any:
    """The residual is the layer itself."""
    features = pointwise(x)
    return relax.op.add(features, features)


@pytest.mark.parametrize(
    "emit",
    [
        lambda x: relax.op.add(x, convolution(x, (3, 3, 16, 16))),
        lambda x: relax.op.add(x, depthwise(x, 1)),
        lambda x: relax.op.add(pointwise(x), constant(16)),
        halved,
        doubled,
    ],
    ids=["after-3x3", "after-depthwise", "constant", "broadcast", "of-itself"],
)
def test_residuals_that_no_kernel_has_are_refused(emit: Callable[[Any], Any]) -> None:
    with pytest.raises(UserError, match="no kernel for"):
        layers_of(emit)


def test_a_bias_of_another_shape_is_refused() -> None:
    def network(x: Any) -> Any:
        product = relax.op.nn.conv2d(x, constant(1, 1, 16, 8), **NHWC)
        return relax.op.add(product, constant(1, 1, 1, 8))

    with pytest.raises(UserError, match="no kernel for"):
        layers_of(network)


@FUSED
def test_selected_kernels_run_in_tvms_own_machine(here: Target, fused: bool) -> None:
    """The module stays valid Relax: `call_tir` runs in the Relax VM with torch's numbers."""
    network = network_of(TINY)
    choose = decisions_of(TINY, here, fused)
    module = select_kernels(fuse_layers(network.relax()), here, choose)
    passes = relax.transform
    # The default pipeline without RewriteDataflowReshape, which takes kernels in S-TIR only.
    pipeline = tvm.transform.Sequential(
        [
            passes.LegalizeOps(),
            passes.ToNonDataflow(),
            passes.RemovePurityChecking(),
            passes.CallTIRRewrite(),
            passes.StaticPlanBlockMemory(),
            passes.LowerAllocTensor(),
            passes.KillAfterLastUse(),
            passes.LowerRuntimeBuiltin(),
            passes.ComputePrimValue(),
            passes.VMShapeLower(),
            passes.AttachGlobalSymbol(),
        ]
    )
    # CanonicalizeLoop forgets to shift a variable in the bounds of the loop inside (TVM 0.27).
    with tvm.transform.PassContext(disabled_pass=["s_tir.CanonicalizeLoop"]):
        executable = relax.build(module, here.codegen(), relax_pipeline=pipeline)
    images = network.images(seed=1)
    logits = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(images))
    assert relative_error(logits.numpy(), network.reference(images)) < 1e-5


@FUSED
def test_equal_layers_share_a_kernel(fused: bool) -> None:
    target = Target.load("x86-avx2")
    choose = decisions_of(TINY, target, fused)
    module = select_kernels(fuse_layers(network_of(TINY).relax()), target, choose)
    kernels = [f for f in module.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    steps, _ = list_steps(module)
    layers = [step.layer for step in steps]
    assert {str(kernel.attrs["layer"]) for kernel in kernels} == {layer.name for layer in layers}
    # One more for the same layer only where it fetches the weights of another one after it.
    bodies = {(str(kernel.attrs["layer"]), str(kernel.body)) for kernel in kernels}
    assert len(kernels) == len(bodies)
    apart = [kernel for kernel in kernels if "prefetch" not in str(kernel.body)]
    assert len(apart) <= len(set(layers)) <= len(kernels) < len(steps)


@FUSED
@pytest.mark.parametrize("architecture", NETWORKS, ids=IDS)
def test_steps_are_the_layers_in_order(architecture: Architecture, fused: bool) -> None:
    """Those of a block are one step, where there is one."""
    steps, _ = steps_of(architecture, fused)
    decisions = decisions_of(architecture, Target.load("x86-avx2"), fused)
    in_order = [part for step in steps for part in step.layer.parts]
    assert in_order == network_layers(network_of(architecture).relax())
    blocks = network_blocks(network_of(architecture).relax())
    wanted = [block for block in blocks if decisions(block) is not None]
    assert [step.layer for step in steps if len(step.layer.parts) > 1] == wanted
    assert bool(wanted) == fused
    assert steps[0].x == "input"
    assert [step.y for step in steps].index("output") == len(steps) - 1
    written = {"input"}
    for step in steps:
        assert step.x in written
        assert (step.residual in written) == (step.layer.epilogue == "residual")
        schedule = decisions.schedule(step.layer)
        assert step.tasks == schedule.tasks(step.layer)
        assert step.scratch_bytes == 4 * schedule.scratch_floats(step.layer)
        assert (step.scratch_bytes > 0) == (step.layer in wanted)
        written.add(step.y)
    assert len(written) == len(steps) + 1


@FUSED
@pytest.mark.parametrize("architecture", NETWORKS[:3], ids=IDS[:3])
def test_weights_lie_aligned_apart_and_as_the_kernels_read_them(
    architecture: Architecture, fused: bool
) -> None:
    steps, blob = steps_of(architecture, fused)
    params = iter(fold_batch_norm(network_of(architecture).state, architecture).values())
    end = 0
    for step in steps:
        assert (step.weights == ()) == (step.layer.operator == "avgpool")
        assert len(step.weights) == 2 * len(step.layer.weighted)
        for weight_offset, bias_offset in zip(step.weights[::2], step.weights[1::2], strict=True):
            weight, bias = next(params), next(params)
            pairs = ((weight_offset, np.sort(weight, None)), (bias_offset, bias))
            for offset, array in pairs:
                assert offset % ALIGNMENT == 0
                assert offset >= end, "overlaps the array before it"
                end = offset + array.nbytes
                stored = np.frombuffer(blob, np.float32, array.size, offset)
                is_weight = array is not bias
                np.testing.assert_array_equal(np.sort(stored) if is_weight else stored, array)
    assert end == len(blob)
    assert next(params, None) is None


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
        for name in (step.x, step.residual):  # after the write: a kernel may not work in place
            if name is not None and name != "input":
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
            and name
            in {n for step in steps[index:] for n in (step.x, step.residual, steps[index].y)}
        )
        + -(-steps[index].scratch_bytes // ALIGNMENT) * ALIGNMENT
        for index in range(len(steps))
    ]
    assert lower_bound(tensors) == max(needs)


def test_tensors_that_are_live_together_lie_apart() -> None:
    """On shapes that no MobileNetV2 has: long-lived residuals across each other."""
    shapes = [(8, 3), (3, 8), (5, 5), (8, 1), (2, 7), (6, 6), (1, 1)]
    layers = [Layer("pwconv", 1, h, w, 16, 16, 1, "residual") for h, w in shapes]
    readers = [0, 0, 0, 1, 0, 2, 3]  # the step whose tensor is added
    scratch = [0, 100, 4000, 0, 64, 9999, 1]  # bytes
    steps = tuple(
        Step(
            layer=layer,
            kernel="k",
            tasks=1,
            x=f"t{index - 1}" if index else "input",
            residual=f"t{reader}" if index > reader + 1 else None,
            weights=(),
            y="output" if index == len(layers) - 1 else f"t{index}",
            scratch_bytes=extra,
        )
        for index, (layer, reader, extra) in enumerate(zip(layers, readers, scratch, strict=True))
    )
    plan = plan_memory(steps)
    live = {
        step.y: range(index, max(i for i, s in enumerate(steps) if step.y in (s.x, s.residual)) + 1)
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


@FUSED
def test_dump_writes_the_ir_of_every_phase(tmp_path: Path, fused: bool) -> None:
    target = Target.load("x86-avx2")
    choose = decisions_of(TINY, target, fused)
    compile_network(network_of(TINY).relax(), target, choose, dump=tmp_path / "a" / "b")
    written = sorted((tmp_path / "a" / "b").iterdir())
    names = [f"{number}_{name}.py" for number, (name, _) in enumerate(PHASES, start=1)]
    assert [path.name for path in written] == names
    texts = [path.read_text(encoding="utf-8") for path in written]
    assert "Composite" in texts[0] and "Composite" not in texts[1]
    assert "R.call_tir" in texts[1]
    assert "mnv2_barrier" in texts[-1] and "R.call_tir" not in texts[-1]
