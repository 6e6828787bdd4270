"""Lower kernels from buffer parameters to plain pointers and LLVM-ready TIR.

The emitted TIR is already flat, vectorised and unrolled, so a handful of passes is enough and a
kernel compiles in about 30 ms. LowerTVMBuiltin must not run here: it would move the register
accumulators to the heap.
"""

from typing import Any

import tvm
from tvm import ir, s_tir, tirx
from tvm.tirx.stmt import DeclBuffer, SeqStmt

from mnv2_tvm.target import Target


def lower_kernels(mod: tvm.IRModule, target: Target) -> tvm.IRModule:
    """Every PrimFunc of the module with pointers for buffers, returning int32 0."""
    codegen = target.codegen()
    functions = {
        name: _with_pointers(name.name_hint, function, codegen)
        for name, function in mod.functions.items()
        if isinstance(function, tirx.PrimFunc)
    }
    return ir.transform.Sequential(
        [
            tirx.transform.FlattenBuffer(),
            tirx.transform.NarrowDataType(32),
            tirx.transform.StmtSimplify(),
            s_tir.transform.RenormalizeSplitPattern(),
            tirx.transform.RemoveNoOp(),
            tirx.transform.LowerIntrin(),
        ]
    )(tvm.IRModule(functions))


def _with_pointers(name: str, function: Any, codegen: Any) -> Any:
    """The same body behind a C signature: one pointer for each buffer.

    The symbol is external, and hidden again by the linker: LLVM would inline a private kernel
    into its only caller, where `noalias` and the name in a profile are lost. Small external ones it
    inlines all the same.
    """
    parameters: list[Any] = []
    declared: list[Any] = []
    for parameter in function.params:
        if isinstance(parameter.ty, tirx.BufferType):
            pointer = tirx.Var(parameter.name, ir.PointerType(parameter.ty.dtype))
            declared.append(DeclBuffer(parameter, data=pointer))
            parameters.append(pointer)
        else:
            parameters.append(parameter)
    body = SeqStmt([*declared, function.body, tirx.stmt.Return(tirx.IntImm("int32", 0))])
    attributes = ir.make_node(
        "ir.DictAttrs", target=codegen, global_symbol=name, **{"tirx.noalias": True}
    )
    return tirx.PrimFunc(parameters, body, ir.PrimType("int32"), attributes)
