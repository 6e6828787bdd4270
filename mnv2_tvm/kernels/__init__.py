"""The kernels: the schedule classes, one a file. A new kernel is a file and a word in KERNELS."""

from mnv2_tvm.errors import UserError
from mnv2_tvm.kernels.conv3x3 import Conv3x3
from mnv2_tvm.kernels.depthwise import Depthwise
from mnv2_tvm.kernels.inverted_residual import InvertedResidual
from mnv2_tvm.kernels.pointwise import Pointwise
from mnv2_tvm.kernels.pooling import AveragePool
from mnv2_tvm.kernels.schedule import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target

__all__ = ["KERNELS", "Schedule", "default_schedule", "kernels_for"]

# Where several accept a layer, the first has the default; a search tries them all.
KERNELS: tuple[type[Schedule], ...] = (
    Conv3x3,
    Depthwise,
    Pointwise,
    AveragePool,
    InvertedResidual,
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
