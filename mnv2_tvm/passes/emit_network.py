"""One TIR function that runs any step over raw pointers: the network without a runtime.

    network(inputs, outputs, workspace, weights, scratch, step, share, shares, thread)
      if step is 0: kernel(x, parameters, residual, tasks of the share, y, scratch)
      if step is 1: ...

The tasks of a step are cut into equal shares. Who calls it does all shares of a step before the
next step, each once, in any order and on any threads: results depend on neither. Thread 0 finds
its scratch memory in the workspace, which it gives as `scratch` too; the others bring their own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mnv2_tvm.passes.list_steps import Step, Tensor
from mnv2_tvm.passes.plan_memory import Plan
from mnv2_tvm.target import Target

ENTRY = "network"
_FLOATS = ir.PointerType(ir.PrimType("float32"))
_INTEGER = ir.PrimType("int32")


def emit_network(
    kernels: tvm.IRModule,
    steps: tuple[Step, ...],
    plan: Plan,
    target: Target,
    ends: Sequence[Tensor],
) -> tvm.IRModule:
    """The lowered kernels and the function `network` that calls them; `ends` are the caller's."""
    names = {name.name_hint: name for name in kernels.functions}
    with IRBuilder() as builder:
        with T.prim_func():
            T.func_name(ENTRY)
            T.func_attr({"target": target.codegen(), "global_symbol": ENTRY})
            T.func_ret(_INTEGER)
            pointers = {
                name: T.arg(name, T.handle("float32"))
                for name in (*(end.name for end in ends), "workspace", "weights", "scratch")
            }
            numbers = [T.arg(n, T.int32()) for n in ("step", "share", "shares", "thread")]
            for index, step in enumerate(steps):
                _emit_step(index, step, names[step.kernel], pointers, plan, numbers)
            T.add_to_parent(tirx.stmt.Return(T.int32(0)))
        entry = builder.get()
    entry = tirx.transform.LowerIntrin()(tvm.IRModule({ENTRY: entry}))
    return tvm.IRModule({**entry.functions, **kernels.functions})


def _emit_step(
    index: int,
    step: Step,
    kernel: Any,
    pointers: Mapping[str, Any],
    plan: Plan,
    numbers: list[Any],
) -> None:
    asked, share, shares, thread = numbers

    def tensor(name: str) -> Any:
        if name in pointers:
            return pointers[name]
        return _at(pointers["workspace"], T.int32(plan.offsets[name]))

    x, *residual = map(tensor, step.reads)
    operands = [x, *(_at(pointers["weights"], T.int32(at)) for at in step.weights), *residual]
    results = [tensor(step.y)]
    if step.scratch_bytes:
        planned = T.int32(plan.offsets[step.scratch])
        offset = T.if_then_else(thread == 0, planned, T.int32(0))
        results.append(_at(pointers["scratch"], offset))
    tasks = [T.floordiv(T.int32(step.tasks) * turn, shares) for turn in (share, share + 1)]
    with T.If(asked == index), T.Then():
        T.evaluate(ir.Call(kernel, [*operands, *tasks, *results], ret_ty=_INTEGER))


def _at(pointer: Any, offset: Any) -> Any:
    return tirx.reinterpret(_FLOATS, T.handle_add_byte_offset(pointer, offset))
