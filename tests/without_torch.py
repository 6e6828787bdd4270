"""Processes that a test starts have no torch: the core needs none, and they start in half the time.

This process has it, where it is an oracle, and so have the workers of pytest-xdist.
"""

import importlib
import os
import sys
from contextlib import suppress
from pathlib import Path

NO_TORCH = str(Path(__file__).parent / "no_torch")

sys.path[:] = [path for path in sys.path if path != NO_TORCH]
with suppress(ImportError):
    importlib.import_module("torch")
# The one for children that are spawned, the other for all others.
sys.path.insert(0, NO_TORCH)
_before = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([NO_TORCH, *_before]))
