"""Where the shipped data lies, `targets/` and `tuning_logs/`, and where a user's own logs go.

The shipped data stand beside the package in a checkout and inside it in a wheel. What a user
measures with an installed package must survive its upgrade, so it goes into the user's folder.
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


def log_folders() -> list[Path]:
    """The folders of tuning logs to read, the one to write into last.

    That of a checkout, where it can be written to; else the shipped one and the user's own. Without
    a home folder there is only the shipped one.
    """
    shipped = data_folder(_LOGS)
    if shipped.parent != _PACKAGE and os.access(
        shipped if shipped.exists() else shipped.parent, os.W_OK
    ):
        return [shipped]
    own = _user_folder()
    return [shipped, own] if own else [shipped]


def written_log_folder() -> Path:
    """The last of `log_folders`. Raises UserError where it would be the installed package's."""
    folder = log_folders()[-1]
    if folder.parent == _PACKAGE:
        raise UserError(
            "there is no home folder for your tuning logs: set HOME or XDG_DATA_HOME, or give "
            "--log-dir DIR"
        )
    return folder


def _user_folder() -> Path | None:
    """By the XDG base directory specification, which ignores paths that are not absolute."""
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not data.is_absolute():
        try:
            home = Path.home()
        except RuntimeError:  # HOME is not set and the user has no entry
            return None
        if not home.is_absolute():
            return None
        data = home / ".local" / "share"
    return data / "mnv2_tvm" / _LOGS
