"""Where the shipped data lies, `targets/` and `tuning_logs/`, and where a user's own logs go.

The shipped data stand beside the package in a checkout and inside it in a wheel, and are only read.
What a user measures goes into the user's folder: it must survive an upgrade, and an installed
package may be read-only.
"""

import os
from pathlib import Path

from mnv2_tvm.errors import UserError

_PACKAGE = Path(__file__).resolve().parent
_LOGS = "tuning_logs"


def data_folder(name: str) -> Path:
    """The folder `name`, taken from inside the package if it is there, else from the checkout."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def shipped_logs() -> Path:
    """The folder of shipped tuning logs."""
    return data_folder(_LOGS)


def own_logs() -> Path | None:
    """The folder of the user's own tuning logs, which need not be there; None without a home.

    By the XDG base directory specification, which ignores paths that are not absolute.
    """
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not data.is_absolute():
        try:
            # Of an empty HOME `Path.home` makes the root.
            home = Path(os.environ["HOME"]) if "HOME" in os.environ else Path.home()
        except RuntimeError:  # and the user has no entry
            return None
        if not home.is_absolute():
            return None
        data = home / ".local" / "share"
    return data / "mnv2_tvm" / _LOGS


def written_logs() -> Path:
    """The same to write into. Raises UserError where there is none."""
    folder = own_logs()
    if folder is None:
        raise UserError(
            "there is no home folder for your tuning logs: set HOME or XDG_DATA_HOME, or give "
            "--log-dir DIR"
        )
    return folder
