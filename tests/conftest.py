"""Targets that this host can run, what is built or searched once, a tracker, and command lines."""

import ast
import functools
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before numpy and torch start: files of tests run beside each other, and idle threads spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import without_torch  # first: it decides who has torch
from device_boards import SHORT_S, ready_tracker, wait_for_boards
from small_search import GLOB, SMALL, TRIALS, Tuned, short_tune

import mnv2_tvm
from mnv2_tvm.build import build
from mnv2_tvm.cli import run_verb
from mnv2_tvm.data import data_folder
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.devices.emulate.board import LocalBoards
from mnv2_tvm.devices.rpc.session import Address
from mnv2_tvm.devices.rpc.tracker import Tracker
from mnv2_tvm.errors import UserError
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.target import Target, target_names

TESTS = Path(__file__).parent
TINY = Architecture(0.35, 32, classes=10)
# 12 classes: 48 bytes of output, so that against a page its start is at no multiple of 64.
ODD = Architecture(0.35, 47, classes=12, batch=2)


@dataclass(frozen=True)
class Built:
    """A network and the folder it was built into."""

    folder: Path
    network: SourceNetwork
    manifest: Manifest


BuildOnce = Callable[[Architecture], Built]


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """The modules that a Python file imports anywhere, and those of the test files among them."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    helpers = [TESTS / f"{name}.py" for name in names]
    return frozenset(names).union(*(imported(helper) for helper in helpers if helper.is_file()))


def uses_torch(path: Path) -> bool:
    """Whether a file imports torch, itself or through a helper."""
    return "torch" in {name.partition(".")[0] for name in imported(path)}


@pytest.fixture(autouse=True)
def no_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch cannot be imported but in the files that take it as their oracle."""
    if not uses_torch(request.path):
        monkeypatch.setitem(sys.modules, "torch", None)


def machines() -> list[str]:
    """The names of all targets that are machines, not groups such as `x86`."""
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


@pytest.fixture(scope="session", autouse=True)
def no_records_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A data folder of the tests' own: what their user has tuned would change what they build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(params=machines())
def target(request: pytest.FixtureRequest) -> Target:
    """Every machine that has a target file."""
    return Target.load(request.param)


@pytest.fixture(scope="session")
def here() -> Target:
    """The target that this host takes by itself."""
    try:
        return Target.load("host")
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def foreign(here: Target) -> Target:
    """A target of another kind of machine."""
    return Target.load("x86-avx2" if here.host.machine == "aarch64" else "rasp4")


@pytest.fixture(scope="session")
def build_once(here: Target, tmp_path_factory: pytest.TempPathFactory) -> BuildOnce:
    """Build a network with random weights for this host, once in the session. Do not change it."""

    @functools.cache
    def build_architecture(architecture: Architecture) -> Built:
        folder = tmp_path_factory.mktemp("built") / "out"
        network = SourceNetwork.make(architecture, None, seed=0)
        return Built(folder, network, build(here, network, folder))

    return build_architecture


@pytest.fixture(scope="session")
def tiny(build_once: BuildOnce) -> Built:
    """The smallest network, built once. Do not change its folder: take `tiny_copy`."""
    return build_once(TINY)


@pytest.fixture
def tiny_copy(tiny: Built, tmp_path: Path) -> Path:
    """A copy of the tiny network's folder, to be broken."""
    return Path(shutil.copytree(tiny.folder, tmp_path / "copy"))


@pytest.fixture
def tiny_network() -> SourceNetwork:
    """The tiny network, not built."""
    return SourceNetwork.make(TINY, None, seed=0)


@pytest.fixture(scope="session")
def tuned(here: Target, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A search of `small_search`. Do not change its logs: copy the folder."""
    log_dir = tmp_path_factory.mktemp("logs")
    return Tuned(log_dir, short_tune(here, SMALL, layer=GLOB, trials=TRIALS, log_dir=log_dir))


@pytest.fixture(scope="module")
def tracker() -> Iterator[Tracker]:
    """A tracker of the test file's own."""
    with ready_tracker() as running:
        yield running


@pytest.fixture(scope="module")
def rasp4(tracker: Tracker) -> Iterator[Address]:
    """An emulated board with the target's name as its key."""
    address = (tracker.host, tracker.port)
    with LocalBoards(Target.load("rasp4"), address, qemu=True):
        wait_for_boards(address, "rasp4")
        yield Address(address, "rasp4")


@pytest.fixture(scope="module")
def address(tracker: Tracker) -> tuple[str, int]:
    """Host and port of the tracker."""
    return tracker.host, tracker.port


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less patience with a board that does not answer."""
    monkeypatch.setattr("mnv2_tvm.measure.patience.ANSWER_S", SHORT_S)


def ended(
    capsys: pytest.CaptureFixture[str], main: Callable[..., Any], *options: object
) -> tuple[int, str, str]:
    """Exit code and both streams of a verb's `main` on the command line."""
    with pytest.raises(SystemExit) as end:
        run_verb(main, list(map(str, options)))
    assert isinstance(end.value.code, int)
    return end.value.code, *capsys.readouterr()


def ends(
    capsys: pytest.CaptureFixture[str], main: Callable[..., Any], *arguments: object
) -> tuple[str, float]:
    """The sentence with which the command line ends, and after how many seconds."""
    start = time.monotonic()
    code, _, errors = ended(capsys, main, *arguments)
    assert code == 1
    return errors.splitlines()[-1], time.monotonic() - start


def run_python(*arguments: str | Path, **keywords: str) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` with the package in reach, and without torch.

    `keywords` are environment variables.
    """
    package = os.pathsep.join([without_torch.NO_TORCH, str(Path(mnv2_tvm.__file__).parents[1])])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": package, **keywords},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
