"""A kernel behind TVM's packed calling convention, so that TVM can load and time it alone."""

from typing import Any

import tvm
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mnv2_tvm.passes.lower_kernels import lower_kernels
from mnv2_tvm.target import Target

ENTRY = "run"
_KERNEL = "kernel"


def packed_kernel(kernel: Any, target: Target) -> tvm.IRModule:
    """The lowered kernel and `run`, which takes its buffers and does all its tasks."""
    lowered = lower_kernels(tvm.IRModule({_KERNEL: kernel}), target)
    (name,) = lowered.functions
    # LowerTVMBuiltin is for the entry alone: it would move the kernel's accumulators to the heap.
    entry = ir.transform.Sequential(
        [
            tirx.transform.MakePackedAPI(),
            tirx.transform.LowerTVMBuiltin(),
            tirx.transform.LowerIntrin(),
        ]
    )(tvm.IRModule({ENTRY: _entry(kernel, name, target)}))
    return tvm.IRModule({**entry.functions, name: lowered[name]})


def _entry(kernel: Any, name: Any, target: Target) -> Any:
    codegen = tvm.target.Target(target.tvm.options(), host=target.tvm.options())
    with IRBuilder() as builder:
        with T.prim_func():
            T.func_name(ENTRY)
            T.func_attr({"target": codegen, "global_symbol": ENTRY})
            bounds = {"first": T.int32(0), "last": T.int32(int(kernel.attrs["tasks"]))}
            arguments = [
                bounds[parameter.name]
                if parameter.name in bounds
                else T.arg(parameter.name, T.buffer(parameter.ty.shape, parameter.ty.dtype)).data
                for parameter in kernel.params
            ]
            T.evaluate(ir.Call(name, arguments, ret_ty=ir.PrimType("int32")))
        return builder.get()
