"""The kernels: one schedule class for each operator. A new kernel is a file and a line here."""

from mnv2_tvm.kernels.conv3x3 import Conv3x3
from mnv2_tvm.kernels.depthwise import Depthwise
from mnv2_tvm.kernels.inverted_residual import InvertedResidual
from mnv2_tvm.kernels.pointwise import Pointwise
from mnv2_tvm.kernels.pooling import AveragePool
from mnv2_tvm.kernels.schedule import Schedule
from mnv2_tvm.layer import Layer, Operator

__all__ = ["KERNELS", "Schedule", "schedule_class"]

KERNELS: dict[Operator, type[Schedule]] = {
    "conv": Conv3x3,
    "dwconv": Depthwise,
    "pwconv": Pointwise,
    "avgpool": AveragePool,
    "irb": InvertedResidual,
    "stem": InvertedResidual,
}


def schedule_class(layer: Layer) -> type[Schedule]:
    """The schedule of the layer's kernel."""
    return KERNELS[layer.operator]
