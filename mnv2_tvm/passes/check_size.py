"""Refuse a network whose memory is planned and beyond what a library can address."""

from collections.abc import Sequence
from math import isqrt, prod

from mnv2_tvm.errors import UserError
from mnv2_tvm.model.limits import MAX_WORKSPACE_BYTES, excess_of
from mnv2_tvm.passes.list_steps import Tensor
from mnv2_tvm.passes.plan_memory import Plan

_SIDE = 32  # the network's stride: what is a multiple of it is halved without a remainder


def check_size(
    inputs: Sequence[Tensor], outputs: Sequence[Tensor], plan: Plan, weight_bytes: int
) -> None:
    """Raise UserError, with sizes that fit, where the workspace or something else is too large."""
    taken, given = (max(prod(end.shape) for end in ends) for ends in (inputs, outputs))
    fault = excess_of(taken, given, plan.workspace_bytes, weight_bytes)
    if fault is None:
        return
    batch, height, width, _ = inputs[0].shape
    images = "1 image" if batch == 1 else f"{batch} images"
    raise UserError(
        f"{images} of {height} x {width}: {fault}; {_remedy(batch, height, width, plan)}"
    )


def _remedy(batch: int, height: int, width: int, plan: Plan) -> str:
    """Options that fit, where it is the workspace: this grows with the batch and with the area."""
    spare, size = MAX_WORKSPACE_BYTES - plan.scratch_bytes, plan.workspace_bytes
    if size <= MAX_WORKSPACE_BYTES:
        return "give a smaller --batch or fewer --classes"
    fewer = batch * spare // size
    side = isqrt(height * width * spare // size) // _SIDE * _SIDE
    mending = [f"--batch {fewer} or less"] if fewer else []
    mending += [f"--resolution {side} or less"] if side else []
    return f"give {', or '.join(mending)}" if mending else "give a smaller network"
