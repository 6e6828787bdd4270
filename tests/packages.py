"""Packages built with `build --package` for tests, and C programs around them."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import ODD, Built
from filelock import FileLock

from mnv2_tvm.build import build
from mnv2_tvm.deploy.manifest import MANIFEST, Manifest
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.numbers import relative_error
from mnv2_tvm.target import Target

SOURCES = Path(__file__).parent / "c"

PackageFor = Callable[[Target, Architecture], Built]


@pytest.fixture(scope="session")
def package_for(tmp_path_factory: pytest.TempPathFactory) -> PackageFor:
    """A package with random weights, built once by all workers together. Do not change it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of the whole run
    (folder / "packages").mkdir(exist_ok=True)

    def build_for(target: Target, architecture: Architecture) -> Built:
        size = f"{architecture.width}-{architecture.resolution}-{architecture.batch}"
        output = folder / "packages" / f"{target.name}-{size}-{architecture.classes}"
        network = SourceNetwork.make(architecture, None, seed=0)
        with FileLock(f"{output}.lock"):
            if not (output / MANIFEST).exists():
                build(target, network, output, package=True)
        return Built(output, network, Manifest.read(output))

    return build_for


@pytest.fixture(scope="session")
def package(here: Target, package_for: PackageFor) -> Built:
    """A package for this host. Do not change it."""
    return package_for(here, ODD)


def tool(name: str) -> str:
    """The path of a tool that the tests need; a missing one is a failure."""
    path = shutil.which(name)
    assert path, f"no {name} on the PATH; scripts/test installs it"
    return path


def run(*command: object, cwd: Path | None = None, code: int = 0) -> str:
    """Run a command, expect the exit code, and return both outputs."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def example_commands(package: Path) -> tuple[list[str], list[str]]:
    """The words after `cc` in both commands of example.c: shared library first, then static."""
    text = (package / "example.c").read_text(encoding="utf-8")
    shared, static = re.findall(r"\bcc (example\.c .* -o example)$", text, re.MULTILINE)
    return shared.replace("'", "").split(), static.split()


def check_example(built: Built, runner: Sequence[object], folder: Path) -> None:
    """Run the example with `runner` before its arguments, and hold its output against torch."""
    images = built.network.images(seed=3)
    pixels, logits = folder / "pixels.raw", folder / "logits.raw"
    pixels.write_bytes(images.tobytes())
    said = run(*runner, pixels, logits)
    result = np.fromfile(logits, np.float32).reshape(built.manifest.output_shape)
    wanted = built.network.reference(images)
    assert relative_error(result, wanted) < 1e-4
    classes = [int(word) for word in re.findall(r"class (\d+)", said)]
    assert classes == wanted.argmax(axis=1).tolist()
