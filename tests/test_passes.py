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
from mnv2_tvm.pipeline import PHASES, compile_network, default_schedule, network_layers
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


@functools.cache
def steps_of(architecture: Architecture) -> tuple[tuple[Step, ...], bytes]:
    """The steps of a network for AVX2 and its weights."""
    target = Target.load("x86-avx2")
    module = select_kernels(
        fuse_layers(network_of(architecture).relax()),
        target,
        functools.partial(default_schedule, target=target),
    )
    return list_steps(module)


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


def test_selected_kernels_run_in_tvms_own_machine(here: Target) -> None:
    """The module stays valid Relax: `call_tir` runs in the Relax VM with torch's numbers."""
    network = network_of(TINY)
    choose = functools.partial(default_schedule, target=here)
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
    executable = relax.build(module, here.codegen(), relax_pipeline=pipeline)
    images = network.images(seed=1)
    logits = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(images))
    assert relative_error(logits.numpy(), network.reference(images)) < 1e-5


def test_equal_layers_share_a_kernel() -> None:
    target = Target.load("x86-avx2")
    chosen: list[Layer] = []

    def choose(layer: Layer) -> Any:
        chosen.append(layer)
        return default_schedule(layer, target)

    module = select_kernels(fuse_layers(network_of(TINY).relax()), target, choose)
    kernels = [f for f in module.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    assert {str(kernel.attrs["layer"]) for kernel in kernels} == {layer.name for layer in chosen}
    assert len(kernels) == len(set(chosen)) < 54


@pytest.mark.parametrize("architecture", NETWORKS, ids=IDS)
def test_steps_are_the_layers_in_order(architecture: Architecture) -> None:
    steps, _ = steps_of(architecture)
    assert [step.layer for step in steps] == network_layers(network_of(architecture).relax())
    assert steps[0].x == "input"
    assert [step.y for step in steps].index("output") == len(steps) - 1
    written = {"input"}
    for step in steps:
        assert step.x in written
        assert (step.residual in written) == (step.layer.epilogue == "residual")
        assert step.tasks == default_schedule(step.layer, Target.load("x86-avx2")).tasks(step.layer)
        written.add(step.y)
    assert len(written) == len(steps) + 1


@pytest.mark.parametrize("architecture", NETWORKS[:3], ids=IDS[:3])
def test_weights_lie_aligned_apart_and_as_the_kernels_read_them(
    architecture: Architecture,
) -> None:
    steps, blob = steps_of(architecture)
    params = iter(fold_batch_norm(network_of(architecture).state, architecture).values())
    end = 0
    for step in steps:
        assert (step.weights == ()) == (step.layer.operator == "avgpool")
        if not step.weights:
            continue
        weight, bias = next(params), next(params)
        for offset, array in zip(step.weights, (np.sort(weight, None), bias), strict=True):
            assert offset % ALIGNMENT == 0
            assert offset >= end, "overlaps the array before it"
            end = offset + array.nbytes
            stored = np.frombuffer(blob, np.float32, array.size, offset)
            is_weight = array is not bias
            np.testing.assert_array_equal(np.sort(stored) if is_weight else stored, array)
    assert end == len(blob)
    assert next(params, None) is None


@pytest.mark.parametrize("architecture", NETWORKS, ids=IDS)
def test_every_step_reads_what_was_written_for_it(architecture: Architecture) -> None:
    """Run the plan on a model of the memory: each 64 bytes know which tensor wrote them last."""
    steps, _ = steps_of(architecture)
    plan = plan_memory(steps)
    owner = np.full(plan.workspace_bytes // ALIGNMENT, "", dtype=object)
    sizes = {step.y: byte_count(step.layer) for step in steps}

    def place(name: str) -> slice:
        start, length = plan.offsets[name] // ALIGNMENT, -(-sizes[name] // ALIGNMENT)
        assert start + length <= len(owner)
        return slice(start, start + length)

    for step in steps:
        if step.y != "output":
            owner[place(step.y)] = step.y
        for name in (step.x, step.residual):  # after the write: a kernel may not work in place
            if name is not None and name != "input":
                assert set(owner[place(name)]) == {name}


@pytest.mark.parametrize("architecture", NETWORKS, ids=IDS)
def test_plan_is_aligned_and_as_small_as_can_be(architecture: Architecture) -> None:
    steps, _ = steps_of(architecture)
    plan, tensors = plan_memory(steps), lifetimes(steps)
    assert plan.offsets.keys() == {step.y for step in steps} - {"output"}
    assert all(offset % ALIGNMENT == 0 for offset in plan.offsets.values())
    assert plan.workspace_bytes == lower_bound(tensors)
    # The bound, again, from the steps alone: what a step writes, reads, and what waits beside it.
    sizes = {step.y: -(-byte_count(step.layer) // ALIGNMENT) * ALIGNMENT for step in steps[:-1]}
    needs = [
        sum(
            size
            for name, size in sizes.items()
            if name in {step.y for step in steps[: index + 1]}
            and name
            in {n for step in steps[index:] for n in (step.x, step.residual, steps[index].y)}
        )
        for index in range(len(steps))
    ]
    assert plan.workspace_bytes == max(needs)


def test_tensors_that_are_live_together_lie_apart() -> None:
    """On shapes that no MobileNetV2 has: long-lived residuals across each other."""
    shapes = [(8, 3), (3, 8), (5, 5), (8, 1), (2, 7), (6, 6), (1, 1)]
    layers = [Layer("pwconv", 1, h, w, 16, 16, 1, "residual") for h, w in shapes]
    readers = [0, 0, 0, 1, 0, 2, 3]  # the step whose tensor is added
    steps = tuple(
        Step(
            layer=layer,
            kernel="k",
            tasks=1,
            x=f"t{index - 1}" if index else "input",
            residual=f"t{reader}" if index > reader + 1 else None,
            weights=(),
            y="output" if index == len(layers) - 1 else f"t{index}",
        )
        for index, (layer, reader) in enumerate(zip(layers, readers, strict=True))
    )
    plan = plan_memory(steps)
    live = {
        step.y: range(index, max(i for i, s in enumerate(steps) if step.y in (s.x, s.residual)) + 1)
        for index, step in enumerate(steps[:-1])
    }
    sizes = {step.y: byte_count(step.layer) for step in steps}
    for a, b in combinations(live, 2):
        if set(live[a]) & set(live[b]):
            first, second = sorted((a, b), key=plan.offsets.__getitem__)
            assert plan.offsets[first] + sizes[first] <= plan.offsets[second]
    assert plan.workspace_bytes >= lower_bound(lifetimes(steps))


def test_dump_writes_the_ir_of_every_phase(tmp_path: Path) -> None:
    target = Target.load("x86-avx2")
    choose = functools.partial(default_schedule, target=target)
    compile_network(network_of(TINY).relax(), target, choose, dump=tmp_path / "a" / "b")
    written = sorted((tmp_path / "a" / "b").iterdir())
    names = [f"{number}_{name}.py" for number, (name, _) in enumerate(PHASES, start=1)]
    assert [path.name for path in written] == names
    texts = [path.read_text(encoding="utf-8") for path in written]
    assert "Composite" in texts[0] and "Composite" not in texts[1]
    assert "R.call_tir" in texts[1]
    assert "mnv2_barrier" in texts[-1] and "R.call_tir" not in texts[-1]
