"""The compiler as one visible list of phases; tune, build, bench and show all run this list.

Each phase takes a `Compilation` and returns it with its own part filled in. `dump` writes the
Relax or TIR of every phase into a folder, to be read.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnv2_tvm.errors import UserError
from mnv2_tvm.kernels import default_schedule as default_schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.passes.check_size import check_size
from mnv2_tvm.passes.describe_layer import describe_layer
from mnv2_tvm.passes.emit_network import emit_network
from mnv2_tvm.passes.find_blocks import operations
from mnv2_tvm.passes.fuse_layers import fuse_layers
from mnv2_tvm.passes.list_quantised import list_quantised
from mnv2_tvm.passes.list_steps import Step, Tensor, ends, list_steps
from mnv2_tvm.passes.lower_kernels import lower_kernels
from mnv2_tvm.passes.plan_memory import Plan, plan_memory
from mnv2_tvm.passes.select_kernels import Choose, select_kernels
from mnv2_tvm.quantise.network import QuantisedNetwork
from mnv2_tvm.target import Target


@dataclass(frozen=True)
class Compilation:
    """A network on its way from Relax to one function over raw pointers."""

    module: Any  # tvm.IRModule
    target: Target
    choose: Choose
    steps: tuple[Step, ...] = ()
    weights: bytes = b""
    inputs: tuple[Tensor, ...] = ()  # what the caller gives, and
    outputs: tuple[Tensor, ...] = ()  # takes
    plan: Plan = Plan({}, 0)  # noqa: RUF009 - frozen, and empty


Phase = Callable[[Compilation], Compilation]


def _fuse_layers(c: Compilation) -> Compilation:
    return replace(c, module=fuse_layers(c.module))


def _select_kernels(c: Compilation) -> Compilation:
    return replace(c, module=select_kernels(c.module, c.target, c.choose))


def _list_steps(c: Compilation) -> Compilation:
    steps, weights = list_steps(c.module)
    inputs, outputs = ends(c.module)
    return replace(c, steps=steps, weights=weights, inputs=inputs, outputs=outputs)


def _plan_memory(c: Compilation) -> Compilation:
    plan = plan_memory(c.steps, [output.name for output in c.outputs])
    check_size(c.inputs, c.outputs, plan, len(c.weights))
    return replace(c, plan=plan)


def _lower_kernels(c: Compilation) -> Compilation:
    return replace(c, module=lower_kernels(c.module, c.target))


def _emit_network(c: Compilation) -> Compilation:
    own = (*c.inputs, *c.outputs)
    return replace(c, module=emit_network(c.module, c.steps, c.plan, c.target, own))


PHASES: tuple[tuple[str, Phase], ...] = (
    ("fuse_layers", _fuse_layers),  # Relax operators -> one composite function a layer
    ("select_kernels", _select_kernels),  # layer or block -> call_tir of its kernel, weights packed
    ("list_steps", _list_steps),  # Relax main -> list of kernel calls, one weight blob
    ("plan_memory", _plan_memory),  # tensor -> offset in the workspace
    ("lower_kernels", _lower_kernels),  # buffers -> pointers, ready for LLVM
    ("emit_network", _emit_network),  # steps -> one function that calls the kernels
)


def compile_network(
    module: Any,
    target: Target,
    choose: Choose,
    *,
    dump: Path | None = None,
) -> Compilation:
    """Run all phases over a Relax module made by `mnv2_tvm.model.relax_module`.

    `choose` gives the schedule of a layer, or None for a block that is not to be fused.
    Raises UserError for an operator without a kernel, and for sizes that no library can address.
    """
    compilation = Compilation(module, target, choose)
    for number, (name, phase) in enumerate(PHASES, start=1):
        compilation = phase(compilation)
        if dump is not None:
            _dump(compilation.module, dump / f"{number}_{name}.py")
    return compilation


def compile_quantised(network: QuantisedNetwork, target: Target, choose: Choose) -> Compilation:
    """The phases from `plan_memory` on, for a network that is a list of layers already.

    Raises UserError where no kernel of the target takes a layer.
    """
    listed, x, y = list_quantised(network, target, choose)
    steps, weights = tuple(listed.steps), bytes(listed.blob.data)
    compilation = Compilation(listed.module, target, choose, steps, weights, (x,), (y,))
    names = [name for name, _ in PHASES]
    for _, phase in PHASES[names.index("plan_memory") :]:
        compilation = phase(compilation)
    return compilation


def plan_network(module: Any, target: Target, choose: Choose) -> Compilation:
    """The phases up to the plan of its memory, which are the quick ones."""
    compilation = Compilation(module, target, choose)
    for name, phase in PHASES:
        compilation = phase(compilation)
        if name == "plan_memory":
            break
    return compilation


def _dump(module: Any, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(module.script(show_meta=False), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the IR to {path}: {error.strerror or error}") from error


def network_layers(module: Any) -> list[Layer]:
    """The layers of a Relax module in order, as the pipeline sees them; repeats included."""
    fused = fuse_layers(module)
    return [
        describe_layer(fused[binding.value.op]).layer
        for block in fused["main"].body.blocks
        for binding in block.bindings
        if hasattr(binding.value, "op")
    ]


def network_blocks(module: Any) -> list[Layer]:
    """The inverted residual blocks of a Relax module in order; repeats included."""
    fused = fuse_layers(module)
    parts = {
        name: describe_layer(function)
        for name, function in fused.functions.items()
        if "Composite" in (function.attrs or {})
    }
    return [block.layer for _, *rest in operations(fused, parts).values() for block in rest]
