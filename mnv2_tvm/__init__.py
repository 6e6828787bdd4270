"""MobileNetV2 compiled for small machines with Apache TVM.

    network = mnv2_tvm.load("out/")
    logits = network(images)          # float32 [m, y, x, 3] to [m, classes]

The verbs are functions too: `from mnv2_tvm.build import build`, and so on.
"""

from mnv2_tvm.deploy.loader import Network, load
from mnv2_tvm.errors import UserError
from mnv2_tvm.homeless import import_tvm_without_home

import_tvm_without_home()

__version__ = "0.1.0"

__all__ = ["Network", "UserError", "load"]
