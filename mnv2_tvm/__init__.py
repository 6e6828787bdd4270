"""MobileNetV2 compiled for small machines with Apache TVM.

    network = mnv2_tvm.load("out/")
    logits = network(images)          # float32 [m, y, x, 3] to [m, classes]

The verbs are functions too: `from mnv2_tvm.build import build`, and so on.
"""

from mnv2_tvm.deploy.loader import Network, load
from mnv2_tvm.errors import UserError
from mnv2_tvm.homeless import import_tvm_without_home
from mnv2_tvm.versions import __version__ as __version__

import_tvm_without_home()

__all__ = ["Network", "UserError", "load"]
