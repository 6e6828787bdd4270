"""The network: its shapes, its weights, its Relax module and their reference in numpy."""

from mnv2_tvm.model.architecture import PUBLISHED, Architecture
from mnv2_tvm.model.convolution import Convolution
from mnv2_tvm.model.folding import fold_batch_norm
from mnv2_tvm.model.interpreter import interpret
from mnv2_tvm.model.random_weights import State, random_images, random_state
from mnv2_tvm.model.relax_module import relax_module
from mnv2_tvm.model.weights import load_weights, read_weights

__all__ = [
    "PUBLISHED",
    "Architecture",
    "Convolution",
    "State",
    "fold_batch_norm",
    "interpret",
    "load_weights",
    "random_images",
    "random_state",
    "read_weights",
    "relax_module",
]
