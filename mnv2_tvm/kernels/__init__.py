"""The kernels: the schedule classes, one a file. A new kernel is a file and a word in KERNELS."""

from typing import Any

from mnv2_tvm.errors import UserError
from mnv2_tvm.kernels.conv3x3 import Conv3x3
from mnv2_tvm.kernels.conv3x3_dot import Conv3x3Dot
from mnv2_tvm.kernels.depthwise import Depthwise
from mnv2_tvm.kernels.depthwise_bytes import DepthwiseBytes
from mnv2_tvm.kernels.depthwise_dot import DepthwiseDot
from mnv2_tvm.kernels.inverted_residual import InvertedResidual
from mnv2_tvm.kernels.pointwise import Pointwise
from mnv2_tvm.kernels.pointwise_dot import PointwiseDot
from mnv2_tvm.kernels.pooling import AveragePool
from mnv2_tvm.kernels.pooling_bytes import AveragePoolBytes
from mnv2_tvm.kernels.schedule import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target

__all__ = ["KERNELS", "Schedule", "default_schedule", "kernels_for", "schedule_of"]

# Where several accept a layer, the first has the default; a search tries them all.
KERNELS: tuple[type[Schedule], ...] = (
    Conv3x3,
    Depthwise,
    Pointwise,
    AveragePool,
    InvertedResidual,
    PointwiseDot,
    DepthwiseDot,
    DepthwiseBytes,
    Conv3x3Dot,
    AveragePoolBytes,
)


def kernels_for(layer: Layer, target: Target) -> tuple[type[Schedule], ...]:
    """The kernels that do the layer on the target; there may be none."""
    return tuple(kernel for kernel in KERNELS if kernel.accepts(layer, target))


def default_schedule(layer: Layer, target: Target) -> Schedule:
    """The schedule that the machine's facts alone favour.

    Raises UserError where no kernel accepts the layer.
    """
    for kernel in kernels_for(layer, target):
        return kernel.default(layer, target)
    raise UserError(f"no kernel for {layer.name} on {target.name}; its window is {layer.window}")


def schedule_of(layer: Layer, kernel: str | None, decisions: dict[str, Any]) -> Schedule:
    """The schedule with these decisions, of the kernel of that name.

    Without a name, as logs before kernels had them, of the first kernel that they fit. Raises
    UserError where it is not of such layers, or none fits.
    """
    kernels = [one for one in KERNELS if one.computes(layer) and kernel in (None, one.kernel())]
    fault = UserError(f"no kernel {kernel or ''} for {layer.name}".replace("  ", " "))
    for number, one in enumerate(kernels):
        try:
            return one.from_json(decisions)
        except UserError as error:
            fault = fault if number else error
    raise fault
