"""From layers to steps: the kernels that are selected, their order, weights and dumped IR."""

from pathlib import Path

import numpy as np
import pytest
import tvm
from conftest import TINY
from pass_networks import ALIGNMENT, FUSED, IDS, NETWORKS, decisions_of, network_of, steps_of
from tvm import relax

from mnv2_tvm.model import Architecture, fold_batch_norm
from mnv2_tvm.numbers import relative_error
from mnv2_tvm.passes.fuse_layers import fuse_layers
from mnv2_tvm.passes.list_steps import list_steps
from mnv2_tvm.passes.select_kernels import select_kernels
from mnv2_tvm.pipeline import PHASES, compile_network, network_blocks, network_layers
from mnv2_tvm.target import Target


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
    assert steps[0].reads == ("input",)
    assert [step.y for step in steps].index("output") == len(steps) - 1
    written = {"input"}
    for step in steps:
        assert set(step.reads) <= written
        assert (len(step.reads) == 2) == (step.layer.epilogue == "residual")
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
    assert "def network(" in texts[-1] and "R.call_tir" not in texts[-1]
