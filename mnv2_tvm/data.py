"""Where the shipped data lies: `targets/` and `tuning_logs/`.

They stand beside the package in a checkout and inside it in a wheel.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_folder(name: str) -> Path:
    """The folder `name`, taken from inside the package if it is there, else from the checkout."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name
