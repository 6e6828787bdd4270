"""Versions of what takes part in a build or a measurement: provenance."""

import platform
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"

_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "numpy", "ziglang")


def versions() -> dict[str, str]:
    """Name to version; `missing` for a package that is not installed."""
    found = {"mnv2-tvm": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found
