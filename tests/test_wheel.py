"""The wheel: it carries its data, and its verbs run from an installed copy alone."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import skip_if_not_runnable

from mnv2_tvm.data import data_folder
from mnv2_tvm.deploy.loader import HEADER, LIBRARY, load
from mnv2_tvm.deploy.manifest import MANIFEST
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.pipeline import network_blocks, network_layers
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.tuning_log import RECORDS
from mnv2_tvm.target import Target

ROOT = Path(__file__).parents[1]


def python(*arguments: str | Path, **keywords: object) -> str:
    """Standard output of `python ARGUMENTS`; a failure shows what was printed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        **keywords,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the checkout as its users build it, in isolation."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--disable-pip-version-check", "-w", folder]
    python("-m", "pip", "wheel", ROOT, *options)
    (path,) = folder.glob("mnv2_tvm-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed wheel."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--disable-pip-version-check", "--no-index", "--target", folder]
    python("-m", "pip", "install", *options, wheel)
    return folder


def run_installed(installed: Path, folder: Path, *arguments: str | Path) -> str:
    """`python ARGUMENTS` in `folder`, with the installed package and the usual dependencies."""
    own = {"PYTHONPATH": str(installed), "XDG_DATA_HOME": str(folder / "data")}
    environment = {**os.environ, **own}
    return python(*arguments, cwd=folder, env=environment)


def test_wheel_has_all_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "mnv2_tvm"
    sources = {f"mnv2_tvm/{path.relative_to(package)}" for path in package.rglob("*.py")}
    assert sources <= names
    assert {f"mnv2_tvm/targets/{path.name}" for path in (ROOT / "targets").iterdir()} <= names
    assert {
        "mnv2_tvm/deploy/mnv2.h",
        "mnv2_tvm/deploy/runtime.c",
        "mnv2_tvm/deploy/steps.c",
        "mnv2_tvm/deploy/team.c",
        "mnv2_tvm/deploy/cpu.c",
        "mnv2_tvm/deploy/packed.c",
        "mnv2_tvm/deploy/package_files/example.c",
        "mnv2_tvm/deploy/package_files/mnv2.pc.in",
        "mnv2_tvm/deploy/package_files/mnv2-config.cmake.in",
        "mnv2_tvm/deploy/package_files/mnv2-config-version.cmake.in",
        "mnv2_tvm/deploy/peak.c",
        "mnv2_tvm/samples/cat.jpg",
    } <= names
    records = {
        f"mnv2_tvm/tuning_logs/{path.parent.name}/{RECORDS}"
        for path in data_folder("tuning_logs").glob(f"*/{RECORDS}")
    }
    assert records and records <= names


def test_wheel_has_nothing_else(wheel: Path) -> None:
    """No measurements of this machine, no locks, caches, tests or outputs."""
    names = zipfile.ZipFile(wheel).namelist()
    suffixes = {".py", ".c", ".h", ".ld", ".md", ".jpg", ".toml", ".typed", ".sh", ".txt", ".in"}
    strange = [
        name
        for name in names
        if ".dist-info/" not in name
        and Path(name).name != RECORDS
        and (Path(name).suffix not in suffixes or not name.startswith("mnv2_tvm/"))
    ]
    assert not strange


def test_data_comes_from_inside(installed: Path, tmp_path: Path) -> None:
    program = (
        "import mnv2_tvm; from mnv2_tvm.data import data_folder;"
        "print(mnv2_tvm.__file__, data_folder('targets'), data_folder('tuning_logs'), sep='\\n')"
    )
    package = installed / "mnv2_tvm"
    assert run_installed(installed, tmp_path, "-c", program).splitlines() == [
        str(package / "__init__.py"),
        str(package / "targets"),
        str(package / "tuning_logs"),
    ]


@pytest.mark.parametrize("target_name", ["x86-avx2", "x86-avx512"])
def test_show_runs_and_takes_the_records_inside(
    installed: Path, tmp_path: Path, target_name: str
) -> None:
    """Every layer and block of 1.0-224 has a record of its own there."""
    output = run_installed(installed, tmp_path, "-m", "mnv2_tvm.show", "--target", target_name)
    assert output.startswith(f"1.0-224 on {target_name}\n")
    rows = rows_of(output)
    module = SourceNetwork.make(Architecture(1.0, 224), None, 0).relax()
    layers = set(network_layers(module) + network_blocks(module))
    assert {Layer.parse(name) for name, *_ in rows} == layers
    decisions = Decisions.load(Target.load(target_name), 1)
    for name, source, shown in rows:
        layer = Layer.parse(name)
        assert source == decisions.source(layer) != "default", name
        assert shown == str(decisions.tuned[layer] or "layer by layer"), name


def rows_of(output: str) -> list[list[str]]:
    """Name, source and schedule of each layer that `show` prints."""
    lines = [line.strip() for line in output.splitlines() if line.startswith(" f32-")]
    return [re.split(r" {2,}", line, maxsplit=2) for line in lines]


def test_what_a_user_tunes_is_the_users(installed: Path, here: Target, tmp_path: Path) -> None:
    """An upgrade replaces the package: its records stay as they are, and the user's outside."""
    package = installed / "mnv2_tvm"
    before = {path: path.read_bytes() for path in package.rglob("*.jsonl*")}
    network = ["--target", here.name, "--width", "0.35", "--resolution", "32"]
    options = [*network, "--layer", "f32-avgpool*"]
    output = run_installed(installed, tmp_path, "-m", "mnv2_tvm.tune", *options, "--trials", "1")
    own = tmp_path / "data" / "mnv2_tvm" / "tuning_logs" / here.name
    assert f"1 records kept in {own}" in output and (own / RECORDS).is_file()
    assert {path: path.read_bytes() for path in package.rglob("*.jsonl*")} == before
    output = run_installed(installed, tmp_path, "-m", "mnv2_tvm.show", *options)
    assert [source for _, source, _ in rows_of(output)] == ["tuned"]


def test_build_runs(installed: Path, tmp_path: Path) -> None:
    size = ["--width", "0.35", "--resolution", "32"]
    options = ["--target", "x86-avx2", *size, "-o", "out"]
    output = run_installed(installed, tmp_path, "-m", "mnv2_tvm.build", *options)
    assert "x86-avx2, 1 thread(s)" in output
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {LIBRARY, HEADER, MANIFEST}
    skip_if_not_runnable(Target.load("x86-avx2"))
    network = load(tmp_path / "out")
    assert network(np.zeros(network.input_shape, np.float32)).shape == (1, 1000)
