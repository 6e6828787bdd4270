"""Group the Relax operators of each layer into one composite function.

The patterns are those of MobileNetV2: convolution or matrix product, bias, and then ReLU6, the
block's input, or nothing; and the global mean. An operator outside them has no kernel here.
"""

import tvm
from tvm import relax
from tvm.relax.dpl import is_const, is_op, wildcard
from tvm.relax.transform import FuseOpsByPattern, FusionPattern

from mnv2_tvm.errors import UserError


def fuse_layers(mod: tvm.IRModule) -> tvm.IRModule:
    """Every operator of `main` moved into a function with the attribute `Composite`.

    Raises UserError for an operator that no pattern takes.
    """
    mod = relax.transform.Normalize()(mod)
    mod = relax.transform.DeadCodeElimination()(mod)  # a plan has no place for what nobody reads
    mod = FuseOpsByPattern(_patterns(), bind_constants=False)(mod)
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op):
                raise UserError(f"no kernel for {value.op.name} at {binding.var.name}")
    return mod


def _patterns() -> list[FusionPattern]:
    """Longest first: the first that matches takes the operators."""
    convolution = is_op("relax.nn.conv2d")(wildcard(), is_const())
    biased = is_op("relax.add")(convolution, is_const())
    dense = is_op("relax.add")(is_op("relax.matmul")(wildcard(), is_const()), is_const())
    residual = is_op("relax.add")(wildcard(), biased) | is_op("relax.add")(biased, wildcard())
    return [
        FusionPattern("convolution.relu6", is_op("relax.clip")(biased, wildcard(), wildcard())),
        FusionPattern("convolution.residual", residual),
        FusionPattern("convolution.linear", biased),
        FusionPattern("dense.linear", dense),
        FusionPattern("pooling.mean", is_op("relax.mean")(wildcard())),
    ]
