"""C libraries for ARM in a folder, for qemu and the linker: glibc for both widths, and musl.

Debian's own packages, downloaded as for the emulated board and kept in the user's cache.
"""

import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from mnv2_tvm.devices.emulate.debian import unpack_packages
from mnv2_tvm.devices.emulate.userland import cache_folder

_PACKAGES = {
    "arm64": ("libc6", "libc6-dev", "musl", "musl-dev"),
    "armhf": ("libc6", "libc6-dev"),
}
_RECIPE = 1  # counts changes of this file that change its result


def arm_sysroot() -> Path:
    """The folder, made once. Raises UserError where a package or the network is missing."""
    folder = cache_folder() / f"sysroot-arm-{_RECIPE}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(prefix=".sysroot-", dir=folder.parent) as name:
                _make(Path(name)).rename(folder)
    return folder


def _make(scratch: Path) -> Path:
    """Unpack what a program is linked with and runs on."""
    new = scratch / "new"
    for architecture, packages in _PACKAGES.items():
        unpack_packages(architecture, packages, new, scratch / architecture)
    for unused in ("usr/share", "usr/include"):
        shutil.rmtree(new / unused, ignore_errors=True)
    return new
