"""The tracker and the list of its boards: what is there, and what does not answer."""

import socket
import subprocess
import sys
import time
from contextlib import closing

import pytest
from conftest import run_python
from device_boards import Address, free_port, ready_tracker
from tvm.rpc.base import TrackerCode

from mnv2_tvm.device.listing import Board, board_table, list_boards
from mnv2_tvm.device.tracker import Tracker, ask, connect, parse_address, start_tracker
from mnv2_tvm.errors import UserError


def test_list_names_a_board_that_does_not_answer(address: Address) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, closing(connect(address)) as connection:
        where = ("127.0.0.1", silent.getsockname()[1])
        ask(connection, TrackerCode.UPDATE_INFO, {"key": "server:mute", "addr": where})
        ask(connection, TrackerCode.PUT, "mute", (where[1], "mute:0.5"), None)
        started = time.monotonic()
        (board,) = [b for b in list_boards(address) if b.key == "mute"]
        assert time.monotonic() - started < 10
        assert board.state == "no answer"


def test_a_table_shows_what_a_warm_board_tells(capsys: pytest.CaptureFixture[str]) -> None:
    info = {"apache-tvm": "1", "apache-tvm-ffi": "2", "clock_mhz": 1500.0, "temperature_c": 61.2}
    table = board_table([Board("rasp4", "10.0.0.7", 9091, "free", info)])
    cells = [next(iter(column.cells)) for column in table.columns]
    assert [str(cell) for cell in cells] == [
        *("rasp4", "10.0.0.7:9091", "free", "1 ffi 2", "", "", "1500", "61", "")
    ]


def test_list_ends_soon_without_a_tracker() -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match=r"no tracker at 127\.0\.0\.1:\d+ .*device tracker --port"):
        list_boards(("127.0.0.1", free_port()))
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(UserError, match="it does not answer"),
    ):
        list_boards(("127.0.0.1", silent.getsockname()[1]))
    assert time.monotonic() - started < 7


def test_list_without_boards_says_how_to_get_one() -> None:
    with ready_tracker() as tracker:
        done = run_python("-m", "mnv2_tvm.device", "list", "--tracker", tracker.address)
        assert done.returncode == 1
        assert "no board is registered" in done.stderr and "device kit" in done.stderr


def test_a_tracker_on_a_taken_port_is_refused(tracker: Tracker) -> None:
    with pytest.raises(UserError, match=f"cannot listen on {tracker.address}"):
        start_tracker(port=tracker.port)


def test_an_address_is_host_and_port() -> None:
    assert parse_address("pi.local:77") == ("pi.local", 77)
    assert parse_address("pi.local") == ("pi.local", 9190)
    for wrong in ("", ":", ":9190", "pi:", "pi:x", "pi:0", "pi:70000"):
        with pytest.raises(UserError, match="is not HOST:PORT"):
            parse_address(wrong)


def test_an_open_tracker_warns() -> None:
    command = [sys.executable, "-m", "mnv2_tvm.device", "tracker", "--host", "0.0.0.0", "--port"]
    with subprocess.Popen([*command, "0"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.terminate()
    assert "warning: the tracker listens on 0.0.0.0" in line
    assert "no authentication" in line
