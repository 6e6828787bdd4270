"""Whatever is wrong with a board: every wait ends at its deadline, and a sentence says why."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import TINY, Built, ends
from device_boards import (
    SHORT_S,
    SLACK_S,
    addresses,
    crashing_library,
    free_port,
    registered,
    wait_for_boards,
    wait_until,
    way,
)

import mnv2_tvm.bench
import mnv2_tvm.devices
import mnv2_tvm.run
import mnv2_tvm.tune
from mnv2_tvm.build import build
from mnv2_tvm.devices.emulate.board import LocalBoards
from mnv2_tvm.devices.rpc.deadline import deadline
from mnv2_tvm.devices.rpc.listing import summary
from mnv2_tvm.devices.rpc.session import Address, Session
from mnv2_tvm.devices.rpc.tracker import Tracker
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.measure.bench import Plan
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.target import Target

BOARD = Path(mnv2_tvm.devices.__file__).parent  # the folder that holds `board`, as in a kit


@pytest.fixture(scope="module")
def the_board(tracker: Tracker, here: Target) -> Iterator[LocalBoards]:
    with LocalBoards(here, (tracker.host, tracker.port)) as board:
        yield board


@pytest.fixture
def address(tracker: Tracker, here: Target) -> Address:
    return Address((tracker.host, tracker.port), here.name)


@pytest.fixture
def board(the_board: LocalBoards, address: Address) -> LocalBoards:
    """One board of this machine, free."""
    wait_for_boards(address.tracker, address.key)
    return the_board


def test_a_tracker_that_is_not_there(
    here: Target, tiny: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"127.0.0.1:{free_port()}"
    library = ("--library", tiny.folder, "--on", f"tracker:{where}")
    for main, arguments in (
        (mnv2_tvm.bench.main, library),
        (mnv2_tvm.tune.main, ("--target", here.name, "--on", f"tracker:{where}")),
    ):
        line, seconds = ends(capsys, main, *arguments)
        assert line.startswith(f"error: link: no tracker at {where} ")
        assert seconds < SLACK_S


def test_a_key_that_nobody_has(
    tracker: Tracker, board: LocalBoards, here: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    line, seconds = ends(
        capsys, mnv2_tvm.tune.main, "--target", "rasp4", "--on", f"tracker:{tracker.address}"
    )
    assert line.startswith(f"error: link: no board 'rasp4' at the tracker {tracker.address}; ")
    assert f"it has {here.name}." in line and "emulate --target rasp4" in line
    assert seconds < SLACK_S


@pytest.mark.usefixtures("short")
def test_a_board_that_falls_silent_while_it_is_measured(
    board: LocalBoards, address: Address, tiny: Built
) -> None:
    supervisor = board.processes[0].pid

    def children(pid: int) -> list[int]:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    (listener,) = children(supervisor)

    def stop() -> None:
        wait_until(lambda: bool(children(listener)), "a session")
        time.sleep(1)  # into the rounds
        os.killpg(listener, signal.SIGSTOP)

    thread = threading.Thread(target=stop)
    thread.start()
    start = time.monotonic()
    with pytest.raises(DeviceError, match=r"timeout: .* did not answer within") as error:
        mnv2_tvm.bench.bench(tiny.folder, tiny.network, Plan(50), on=way(address))
    assert time.monotonic() - start < SHORT_S + SLACK_S
    thread.join()
    assert error.value.board in addresses(address.tracker)
    os.killpg(listener, signal.SIGCONT)
    wait_for_boards(address.tracker, address.key)


def free(address: Address) -> int:
    return summary(address.tracker)[1].get(address.key, 0)


def test_a_session_with_a_server_that_has_just_started_again(
    board: LocalBoards, address: Address
) -> None:
    """The tracker gives out a key that the server had before; the next one is right."""
    (there,) = summary(address.tracker)[0]
    held = Session(address)
    with registered(address, there.port, "stale"):
        held.close()
        wait_until(lambda: free(address) == 2, "the stale key and the new one")
        with closing(Session(address)) as session:
            assert session.board == f"{there.host}:{there.port}"
            assert free(address) == 0, "the stale key was not asked for"


def test_a_busy_board_ends_the_wait(board: LocalBoards, address: Address) -> None:
    start = time.monotonic()
    with (
        closing(Session(address)),
        pytest.raises(DeviceError, match=r"link: all boards .* are busy since 1 s"),
    ):
        Session(address, wait_s=1.0)
    assert time.monotonic() - start < SLACK_S


def test_what_fails_on_a_board_has_its_kind(
    board: LocalBoards, address: Address, here: Target, tmp_path: Path
) -> None:
    """And costs one session: the board is free again soon, whatever the kernel does."""
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    with closing(Session(address)) as session, pytest.raises(DeviceError) as error:
        session.load(broken)
    assert error.value.kind is Kind.UPLOAD
    assert str(error.value).startswith(f"upload: the board {address.key} at {session.board} failed")
    library = crashing_library(here, tmp_path)
    for name, kind in (("hang", Kind.TIMEOUT), ("crash", Kind.CRASH)):
        wait_for_boards(address.tracker, address.key)
        session = Session(address)
        function = session.load(library)[name]
        with pytest.raises(DeviceError) as error, session.within(1.0, "measuring"):
            function()
        assert error.value.kind is kind and error.value.board == session.board
    wait_until(lambda: free(address) == 1, "a free board", 10)


def test_other_versions_on_a_board(
    board: LocalBoards,
    tracker: Tracker,
    tiny: Built,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = {"apache-tvm": "0.28.0", "apache-tvm-ffi": "0.1.14.post1"}
    monkeypatch.setattr("mnv2_tvm.devices.rpc.session.versions", lambda: other)
    line, seconds = ends(
        capsys, mnv2_tvm.bench.main, "--library", tiny.folder, "--on", f"tracker:{tracker.address}"
    )
    assert line.startswith("error: refused: the board ")
    assert "apache-tvm 0.27.0.post1, this host 0.28.0" in line and "device kit" in line
    assert seconds < SLACK_S


def test_a_library_for_another_isa(
    tracker: Tracker, foreign: Target, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A board with the name of a target, and another architecture."""
    build(foreign, SourceNetwork.make(TINY, None, 1), tmp_path / "out")
    command = [sys.executable, "-m", "board.serve", "--tracker", tracker.address]
    command += ["--key", foreign.name, "--with-parent", str(os.getpid())]
    with subprocess.Popen(command, cwd=BOARD) as process:
        wait_for_boards((tracker.host, tracker.port), foreign.name)
        way = f"tracker:{tracker.address}"
        line, seconds = ends(
            capsys, mnv2_tvm.bench.main, "--library", tmp_path / "out", "--on", way
        )
        process.terminate()
    assert f"was built for {foreign.name} ({foreign.host.machine})" in line
    assert os.uname().machine in line and seconds < SLACK_S


def test_a_block_in_time_keeps_its_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = listener.getsockname()
        with socket.create_connection(peer) as ours, listener.accept()[0] as theirs:

            def cut() -> None:
                ours.shutdown(socket.SHUT_RDWR)

            with deadline(60, cut):
                ours.sendall(b"x")
            assert theirs.recv(1) == b"x"
            with pytest.raises(TimeoutError), deadline(0.1, cut):
                assert ours.recv(1) == b"", "cut, and not answered"
            with pytest.raises(ValueError, match="its own"), deadline(60, cut):
                raise ValueError("its own")
