"""Does a network fit a microcontroller: the figures, and the refusals of `build`."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mnv2_tvm import UserError, build
from mnv2_tvm.cli import run_verb
from mnv2_tvm.data import data_folder
from mnv2_tvm.deploy.memory_fit import (
    Need,
    byte_count,
    check_fit,
    fitting,
    weight_bytes,
    with_memory,
)
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.passes.list_steps import aligned
from mnv2_tvm.pipeline import Compilation, plan_network
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Target

M7 = Target.load("cortex-m7")
SMALL = Architecture(0.35, 96, classes=10)
IDENTITY = SourceNetwork.make(SMALL, None, 0).identity


@pytest.fixture(scope="module")
def planned() -> Compilation:
    network = SourceNetwork.make(SMALL, None, seed=0)
    return plan_network(network.relax(), M7, Decisions.load(M7, 1))


def test_what_a_network_needs(planned: Compilation) -> None:
    need = Need.of(planned, code=1000)
    assert need.weights == len(planned.weights)
    assert weight_bytes(SMALL) == aligned(need.weights)
    assert need.flash == need.weights + 1000
    assert need.buffers == 4 * (96 * 96 * 3 + 10)
    assert need.ram == planned.plan.workspace_bytes + need.buffers


def test_a_byte_decides(planned: Compilation) -> None:
    need = Need.of(planned, code=1000)
    exact = with_memory(M7, need.flash, need.ram)
    check_fit(replace(planned, target=exact), IDENTITY, 1000)
    for flash, ram in ((need.flash - 1, need.ram), (need.flash, need.ram - 1)):
        short = replace(planned, target=with_memory(M7, flash, ram))
        with pytest.raises(UserError, match=r"0\.35-96 does not fit cortex-m7"):
            check_fit(short, IDENTITY, 1000)


def test_what_would_fit_does(planned: Compilation) -> None:
    """Every network named is within the memory, and a smaller one than asked for is among them."""
    target = with_memory(M7, None, Need.of(planned, 0).ram - 1)
    assert target.microcontroller
    found = dict(fitting(target, SMALL))
    assert Architecture(0.35, 64, classes=10) in found
    assert SMALL not in found
    assert all(need.fits(target.microcontroller) for need in found.values())


def test_targets_that_have_no_such_memory_always_fit(planned: Compilation) -> None:
    check_fit(replace(planned, target=Target.load("rasp4")), IDENTITY)


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *options: str) -> str:
    """What `build` prints to stderr, after it has written nothing."""
    size = ("--width", "0.35", "--resolution", "96", "--output", str(folder / "out"))
    with pytest.raises(SystemExit) as ended:
        run_verb(build.main, [*size, *options])
    assert ended.value.code == 1
    assert not list(folder.iterdir())
    return capsys.readouterr().err


def test_build_refuses_with_what_would_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = refused(capsys, tmp_path, "--target", "cortex-m7", "--ram", "200K")
    assert "which has 8192 KiB flash and 200 KiB RAM (see --flash and --ram)" in errors
    assert "\n  --width 0.35 --resolution 64: flash " in errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--target", "cortex-m4"),
            "no width fits with --classes 1000; give fewer, or more memory",
        ),
        (("--target", "x86-avx2", "--ram", "1M"), "x86-avx2 is no microcontroller"),
        (("--target", "cortex-m7", "--flash", "much"), "'much' is no size; give bytes, or such as"),
    ],
)
def test_what_build_refuses(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, tmp_path, *options)


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("320K", 327680), ("2M", 2097152)])
def test_sizes(text: str, size: int) -> None:
    assert byte_count(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5M", "2G", "K", "1 M", "9" * 11])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="is no size"):
        byte_count(text)


@pytest.mark.parametrize(
    ("pattern", "text", "message"),
    [
        (r"^ram_bytes = .*\n", "", "missing.*`ram_bytes` - at `$.microcontroller`"),
        (r"^ram_bytes = .*$", 'ram_bytes = "1M"', "`int`.*- at `$.microcontroller.ram_bytes`"),
        (r"^qemu_ram = .*$", "qemu_ram = 0", "`str`.*- at `$.microcontroller.qemu_ram`"),
    ],
)
def test_broken_key_of_a_target_file_is_named(
    pattern: str, text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(data_folder("targets"), tmp_path / "targets")) / "cortex-m7.toml"
    path.write_text(re.sub(pattern, text, path.read_text(), flags=re.MULTILINE))
    monkeypatch.setattr("mnv2_tvm.target.data_folder", lambda name: tmp_path / name)
    match = message.replace("$", r"\$")
    with pytest.raises(UserError, match=f"cortex-m7.toml: .*{match}"):
        Target.load("cortex-m7")
