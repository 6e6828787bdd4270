"""What a process that cannot clean up leaves on a device: the next one there removes it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from program_devices import remote
from ssh_server import SshServer, ssh_server

from mnv2_tvm.target import Target

OTHER_HOST = "0123456789abcdef-1-1"
PROGRAM = """
import os, sys, time
from mnv2_tvm.cli import run_verb
from mnv2_tvm.devices.open import transport
from mnv2_tvm.devices.program.remote import Remote
from mnv2_tvm.target import Target

def verb() -> None:
    with Remote(transport("ssh:board"), Target.load(sys.argv[1])):
        print("ready", flush=True)
        if sys.argv[2] == "wait":
            time.sleep(120)
        os.environ["PATH"] = "/nowhere"  # from here on there is no way to the device

run_verb(verb, [])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("ssh")) as running:
        yield running


@pytest.fixture
def there(server: SshServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary ones on the device, with nothing in it."""
    monkeypatch.setenv("PATH", str(server.bin), prepend=":")
    assert list(server.there.iterdir()) == []
    return server.there


@contextmanager
def started(target: Target, what: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that has a folder on the device."""
    command = [sys.executable, "-c", PROGRAM, target.name, what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def folders(there: Path) -> set[str]:
    return {path.name for path in there.iterdir()}


def test_of_processes_of_this_host_those_that_are_gone(here: Target, there: Path) -> None:
    """Killed, and without its link at the end; the folder of a living one stays."""
    with started(here, "lose") as lost:
        assert lost.wait(60) == 0
    with started(here, "wait"), remote("ssh:board", here):
        assert len(folders(there)) == 2  # that of `lost` is gone, that of a living one is not
    assert len(folders(there)) == 1
    with remote("ssh:board", here):
        assert len(folders(there)) == 1
    assert not folders(there)


def test_a_process_that_is_told_to_end_cleans_up(here: Target, there: Path) -> None:
    with started(here, "wait") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert not folders(there)


def test_what_is_not_known_to_be_left_stays(here: Target, there: Path, tmp_path: Path) -> None:
    """Folders without a mark, links, what another host used today; all else is a day old."""
    day_ago = time.time() - 90_000
    planted = {"mnv2-nomark": "", "mnv2-today0": OTHER_HOST, "mnv2-old000": OTHER_HOST}
    planted |= {"mnv2-bad000": f"{OTHER_HOST}; touch {tmp_path}/pwned", "mine": OTHER_HOST}
    (tmp_path / "elsewhere").mkdir()
    (there / "mnv2-link00").symlink_to(tmp_path / "elsewhere")
    marked = [(there / name, text) for name, text in planted.items()]
    for folder, text in [*marked, (tmp_path / "elsewhere", OTHER_HOST)]:
        folder.mkdir(exist_ok=True)
        if text:
            (folder / ".mnv2-owner").write_text(f"{text}\n")
            when = time.time() if "today" in folder.name else day_ago
            os.utime(folder / ".mnv2-owner", (when, when))
    with remote("ssh:board", here):
        pass
    assert folders(there) == {*planted, "mnv2-link00"} - {"mnv2-old000"}
    assert (tmp_path / "elsewhere" / ".mnv2-owner").exists()
    assert not (tmp_path / "pwned").exists()
    for path in there.iterdir():
        path.unlink() if path.is_symlink() else subprocess.run(["rm", "-r", path], check=True)
