"""The network: its shapes, its weights, its reference in torch and its Relax module."""

from mnv2_tvm.model.architecture import PUBLISHED, Architecture, Convolution
from mnv2_tvm.model.folding import fold_batch_norm
from mnv2_tvm.model.reference import MobileNetV2, random_state
from mnv2_tvm.model.relax_module import relax_module
from mnv2_tvm.model.weights import load_weights, read_weights

__all__ = [
    "PUBLISHED",
    "Architecture",
    "Convolution",
    "MobileNetV2",
    "fold_batch_norm",
    "load_weights",
    "random_state",
    "read_weights",
    "relax_module",
]
