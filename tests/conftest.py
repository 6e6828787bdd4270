"""Targets that this host can run, and a tiny network built once for all tests that only read it."""

import functools
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import mnv2_tvm
from mnv2_tvm.build import build
from mnv2_tvm.data import data_folder
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.model import Architecture
from mnv2_tvm.network import SourceNetwork
from mnv2_tvm.target import Target, target_names

TINY = Architecture(0.35, 32, classes=10)


@dataclass(frozen=True)
class Built:
    """A network and the folder it was built into."""

    folder: Path
    network: SourceNetwork
    manifest: Manifest


def machines() -> list[str]:
    """The names of all targets that are machines, not aliases such as `x86`."""
    return [
        name
        for name in target_names()
        if "best_of"
        not in tomllib.loads((data_folder("targets") / f"{name}.toml").read_text(encoding="utf-8"))
    ]


def skip_if_not_runnable(target: Target) -> None:
    """Skip the test where this host lacks what the target needs, and say what."""
    lacking = target.missing_here()
    if lacking:
        pytest.skip(f"{target.name} needs {', '.join(lacking)}")


@pytest.fixture(params=machines())
def target(request: pytest.FixtureRequest) -> Target:
    """Every machine that has a target file."""
    return Target.load(request.param)


@pytest.fixture
def runnable(target: Target) -> Target:
    """Every machine whose code this host can run."""
    skip_if_not_runnable(target)
    return target


@pytest.fixture(scope="session")
def here() -> Target:
    """The target with the widest vectors that this host can run."""
    runnable = [target for target in map(Target.load, machines()) if not target.missing_here()]
    if not runnable:
        pytest.skip(f"no target file is for this host, a {os.uname().machine} CPU")
    return max(runnable, key=lambda target: target.vector.lanes)


@pytest.fixture(scope="session")
def build_once(
    here: Target, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Architecture], Built]:
    """Build a network with random weights for this host, once in the session. Do not change it."""

    @functools.cache
    def build_architecture(architecture: Architecture) -> Built:
        folder = tmp_path_factory.mktemp("built") / "out"
        network = SourceNetwork.make(architecture, None, seed=0)
        return Built(folder, network, build(here, network, folder))

    return build_architecture


@pytest.fixture(scope="session")
def tiny(build_once: Callable[[Architecture], Built]) -> Built:
    """The smallest network, built once. Do not change its folder: take `tiny_copy`."""
    return build_once(TINY)


def run_python(*arguments: str | Path, **keywords: str) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` with the package in reach; `keywords` are environment variables."""
    package = str(Path(mnv2_tvm.__file__).parents[1])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": package, **keywords},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
