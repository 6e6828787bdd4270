"""Boards that never answer, or are lost: every verb ends at its deadline, and says which board."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import Built, ends, run_python
from device_boards import SHORT_S, SLACK_S, ready_tracker, registered, wait_for_boards

import mnv2_tvm.bench
import mnv2_tvm.devices
import mnv2_tvm.run
import mnv2_tvm.tune
from mnv2_tvm.devices.emulate.board import LocalBoards
from mnv2_tvm.devices.rpc.session import Address, Session
from mnv2_tvm.devices.rpc.tracker import Tracker
from mnv2_tvm.failures import DeviceError
from mnv2_tvm.measure.patience import ANSWER_S
from mnv2_tvm.target import Target


@pytest.fixture(scope="module")
def other_tracker() -> Iterator[Tracker]:
    """A tracker without any board."""
    with ready_tracker() as running:
        yield running


@pytest.fixture
def other_address(other_tracker: Tracker, here: Target) -> Address:
    return Address((other_tracker.host, other_tracker.port), here.name)


@contextmanager
def silent_board(address: Address) -> Iterator[str]:
    """One that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with registered(address, port, f"{address.key}:0.5"):
            yield f"127.0.0.1:{port}"


def test_bench_of_a_silent_board(
    other_tracker: Tracker, other_address: Address, tiny: Built
) -> None:
    """The real command line, with its real deadline."""
    start = time.monotonic()
    with silent_board(other_address) as where:
        arguments: list[str | Path] = [
            "--library",
            tiny.folder,
            "--on",
            f"tracker:{other_tracker.address}",
        ]
        done = run_python("-m", "mnv2_tvm.bench", *arguments)
    assert ANSWER_S < time.monotonic() - start < ANSWER_S + SLACK_S
    assert done.returncode == 1
    board = f"the board {other_address.key} at {where}"
    late = f"did not answer within {ANSWER_S:.0f} s while opening a session"
    assert done.stderr == f"error: timeout: {board} {late}\n"


@pytest.mark.usefixtures("short")
def test_tune_and_run_on_a_silent_board(
    other_tracker: Tracker,
    other_address: Address,
    tiny: Built,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    there, key = ("--on", f"tracker:{other_tracker.address}"), other_address.key
    image = Path(mnv2_tvm.__file__).parent / "samples" / "cat.jpg"
    for main, arguments in (
        (mnv2_tvm.tune.main, ("--target", key, "--log-dir", tmp_path, *there)),
        (mnv2_tvm.run.main, (tiny.folder, "--image", image, *there)),
    ):
        with silent_board(other_address) as where:
            line, seconds = ends(capsys, main, *arguments)
        assert line.startswith(f"error: timeout: the board {key} at {where} did not answer")
        assert seconds < SHORT_S + SLACK_S


@pytest.mark.usefixtures("short")
def test_a_board_that_does_not_even_accept(other_address: Address) -> None:
    """Its queue of connections is full, so that ours is never made."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for one in (first, second):
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(listener.getsockname())
        port = listener.getsockname()[1]
        start = time.monotonic()
        with (
            registered(other_address, port, "any"),
            pytest.raises(
                DeviceError, match=f"timeout: .*127.0.0.1:{port} did not answer within 2"
            ),
        ):
            Session(other_address)
        assert time.monotonic() - start < SHORT_S + SLACK_S


def test_a_board_that_is_lost(other_address: Address, here: Target) -> None:
    with LocalBoards(here, other_address.tracker) as board:
        wait_for_boards(other_address.tracker, here.name)
        session = Session(other_address)
        board.close()
        with pytest.raises(
            DeviceError, match=r"link: .* is gone; it left the tracker while telling"
        ):
            session.ask()
