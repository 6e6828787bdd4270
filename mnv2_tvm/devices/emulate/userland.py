"""A Debian userland for 64-bit ARM in a folder: Python and TVM's runtime, to run under qemu-user.

No root, no chroot and no binfmt: apt downloads into a state of its own, and pip fetches wheels for
the other machine.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from mnv2_tvm import files
from mnv2_tvm.devices.board.serve import QUICK_IMPORT
from mnv2_tvm.devices.emulate.debian import run, unpack_packages
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import scratch_folder

PINNED = ("apache-tvm", "apache-tvm-ffi")  # on the board as here
_PYTHON = ("python{0}-minimal", "libpython{0}-minimal", "libpython{0}-stdlib")
_LIBRARIES = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8")
# numpy and TVM without what no server needs; the compiler alone is 250 MB.
_DROPPED = re.compile(
    r"libtvm_compiler\.so|libtvm_runtime_cuda\.so|(^|/)tests?/|^tvm/(3rdparty|include|src|cmake)/"
    r"|^tvm_ffi/(include|3rdparty|src|cmake)/|\.(h|hpp|cc|pyi|a)$"
)
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17")
_RECIPE = 2  # counts changes of the code that change its result


class Userland:
    """The folder of a userland, made once and kept in the user's cache."""

    def __init__(self, folder: Path, qemu: str) -> None:
        self.folder = folder
        self._qemu = qemu

    @classmethod
    def ready(cls) -> "Userland":
        """The userland from the cache, made first if it is not there.

        Raises UserError where a tool, a package or the network is missing.
        """
        qemu = find_qemu()
        recipe = [_RECIPE, _PYTHON, _LIBRARIES, _DROPPED.pattern, [version(p) for p in PINNED]]
        digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
        folder = cache_folder() / f"board-aarch64-{digest}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                _make(folder, qemu)
        return cls(folder, qemu)

    def command(self, *arguments: str) -> list[str]:
        """A command of this host that runs Python in the userland."""
        (python,) = (self.folder / "usr/bin").glob("python3.*[0-9]")
        return [self._qemu, "-L", str(self.folder), str(python), *arguments]

    def environment(self) -> dict[str, str]:
        """The environment for `command`: this process's, and where Python finds its modules."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LD_"))}
        return inherited | {
            **QUICK_IMPORT,
            "PYTHONHOME": str(self.folder / "usr"),
            "PYTHONPATH": str(self.folder / "wheels"),
            "PYTHONNOUSERSITE": "1",
        }


def cache_folder() -> Path:
    """This package's folder in the user's cache."""
    return files.cache_folder("mnv2-tvm")


def find_qemu() -> str:
    """The path of qemu for 64-bit ARM programs. Raises UserError where there is none."""
    for name in ("qemu-aarch64", "qemu-aarch64-static"):
        if path := shutil.which(name):
            return path
    raise UserError("no qemu-aarch64 on the PATH; apt install qemu-user")


def _make(folder: Path, qemu: str) -> None:
    """Fill `folder`, whole or not at all."""
    print(f"making a 64-bit ARM userland in {folder}", flush=True)
    with scratch_folder(folder.parent, ".board-") as name:
        scratch = Path(name)
        new = scratch / "new"
        python = _unpack_python(new, scratch)
        _unpack_wheels(new / "wheels", python, scratch)
        # Proves that it works, and leaves compiled Python files: half of the time of a start.
        userland = Userland(new, qemu)
        run(
            userland.command("-c", "import multiprocessing, tvm.rpc.server"),
            "the new userland does not start",
            env=userland.environment(),
        )
        new.rename(folder)


def _unpack_python(new: Path, scratch: Path) -> str:
    """Unpack Python for arm64 and what it needs; its version: 3.x."""
    unpack_packages("arm64", ["python3-minimal"], scratch / "link", scratch / "apt")
    try:
        name = (scratch / "link/usr/bin/python3").readlink().name
    except OSError as error:
        raise UserError(f"Debian's python3-minimal has no link python3: {error}") from error
    python = name.removeprefix("python")
    packages = [package.format(python) for package in (*_PYTHON, *_LIBRARIES)]
    unpack_packages("arm64", packages, new, scratch / "apt")
    for unused in ("usr/share", "var", "etc"):
        shutil.rmtree(new / unused, ignore_errors=True)
    return python


def _unpack_wheels(folder: Path, python: str, scratch: Path) -> None:
    wheels = scratch / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--python-version", python, "--dest", str(wheels)]
    for platform in _PLATFORMS:
        command += ["--platform", f"{platform}_aarch64"]
    pins = [f"{package}=={version(package)}" for package in PINNED]
    run([*command, *pins], "pip cannot fetch the wheels of TVM for 64-bit ARM")
    for path in wheels.glob("*.whl"):
        with zipfile.ZipFile(path) as wheel:
            wheel.extractall(folder, [n for n in wheel.namelist() if not _DROPPED.search(n)])
