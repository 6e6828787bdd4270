"""A board whose kernels give wrong results: our server, which loads one library around another.

python wrong_board.py WRONG_LIBRARY --tracker HOST:PORT --key NAME
"""

import argparse
import os
import shutil
import sys
from typing import Any

from mnv2_tvm.devices.board import listen, serve

WRONG = sys.argv.pop(1)
serve_for_ever = listen.listen


def listen_wrongly(options: argparse.Namespace, scratch: str) -> None:
    """Serve like any board, but for the libraries that are loaded."""
    import tvm_ffi
    from tvm import runtime  # noqa: F401  registers the function below

    load = tvm_ffi.get_global_func("ffi.ModuleLoadFromFile")

    def load_wrong(path: str) -> Any:
        os.environ["RIGHT_LIBRARY"] = path
        # A name of its own: a library of the same name would still be loaded.
        return load(shutil.copy(WRONG, f"{path}.wrong.so"))

    tvm_ffi.register_global_func("ffi.ModuleLoadFromFile", load_wrong, override=True)
    serve_for_ever(options, scratch)


serve.listen = listen_wrongly  # type: ignore[attr-defined,assignment]
sys.exit(serve.main())
