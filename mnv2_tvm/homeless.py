"""TVM for a user without a home folder: its import asks for one, to name a cache we never use."""

import os
from contextlib import suppress
from pathlib import Path

_CACHE = "XDG_CACHE_HOME"


def import_tvm_without_home() -> None:
    """Import TVM if only this way can: no HOME, no entry of the user, no folder for a cache."""
    if _CACHE in os.environ:
        return
    try:
        Path.home()
    except RuntimeError:
        os.environ[_CACHE] = os.devnull
        try:
            with suppress(ImportError):  # whoever needs it says so
                import tvm  # noqa: F401
        finally:
            del os.environ[_CACHE]
