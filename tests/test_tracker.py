"""The tracker and the list of its boards: what is there, and what does not answer."""

import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from conftest import run_python
from device_boards import (
    Address,
    answers,
    free_port,
    ready_tracker,
    registered,
    wait_for_boards,
    wait_until,
)
from tvm.rpc.base import TrackerCode

import mnv2_tvm.devices as devices
from mnv2_tvm import device as device
from mnv2_tvm.devices.rpc.listing import Board, board_table, list_boards
from mnv2_tvm.devices.rpc.session import Address as BoardAddress
from mnv2_tvm.devices.rpc.session import Session
from mnv2_tvm.devices.rpc.tracker import Tracker, ask, connect, parse_address, start_tracker
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError
from mnv2_tvm.target import Target


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
    for text, host, port in (
        ("pi.local:77", "pi.local", 77),
        ("pi.local", "pi.local", 9190),
        ("my_board-2:1", "my_board-2", 1),
        ("[::1]:9191", "::1", 9191),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
        ("[::1]", "::1", 9190),
        ("::1", "::1", 9190),
        ("2001:db8::7", "2001:db8::7", 9190),
    ):
        assert parse_address(text) == (host, port)
    wrong = [
        "",
        ":",
        ":9190",
        "pi:",
        "pi:x",
        "pi:0",
        "pi:70000",
        "pi:-1",
        "pi:+1",
        "pi: 1",
        "a b:1",
    ]
    wrong += [
        "pi:" + "9" * 5000,
        "pi:٣",
        "[]:1",
        "[::1",
        "::1]:1",
        "[::1]:",
        "[pi]:1",
        "[1.2.3.4]:1",
    ]
    wrong += ["pi:1:2", "tracker://pi:1", "user@pi:1", "[::1]9190", "pi\n:1", "pi\0", ":::1"]
    for text in wrong:
        with pytest.raises(UserError, match="is not HOST:PORT") as error:
            parse_address(text)
        assert len(str(error.value)) < 200 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", 70000), ("127.0.0.1", -1), ("a" * 70, 0), ("10.0.0.300", 0)]
)
def test_what_nobody_can_listen_on(host: str, port: int) -> None:
    with pytest.raises(UserError, match=f"cannot listen on {host}:{port}: "):
        start_tracker(host, port)


@pytest.mark.parametrize("host", ["a" * 70, "..", "no_such_host.invalid"])
def test_a_name_that_no_host_has(host: str) -> None:
    with pytest.raises(DeviceError, match=f"link: no tracker at {host}:1 "):
        list_boards((host, 1))


def test_a_board_and_a_tracker_on_ipv6(here: Target, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    with start_tracker("::1", 0) as own:
        assert own.address == f"[::1]:{own.port}"
        board = ["-m", "board.serve", "--key", here.name, "--tracker", own.address, "--host", "::1"]
        folder = Path(devices.__file__).parent
        with subprocess.Popen([sys.executable, *board], cwd=folder) as process:
            try:
                wait_until(lambda: answers(own), "the tracker")
                wait_for_boards((own.host, own.port), here.name)
                device.list_(own.address)
                with closing(Session(BoardAddress((own.host, own.port), here.name))) as session:
                    assert session.board.startswith("[::1]:")
            finally:
                process.terminate()
    (row,) = [line for line in capsys.readouterr().out.splitlines() if here.name in line]
    assert row.split()[1].startswith("[::1]:") and row.split()[2] == "free"


def test_boards_to_avoid_are_not_counted(address: Address) -> None:
    """Also where one of them has left."""
    with ExitStack() as stack:
        every = BoardAddress(address, "avoided")
        left = every.without({"127.0.0.1:7771"}).without({"127.0.0.1:7772"})
        for count, port in enumerate((7771, 7772, 7773), 1):
            stack.enter_context(registered(every, port, f"avoided:0.{count}"))
            assert every.boards() == count
            if count > 2:
                assert left.registered() == (["127.0.0.1:7773"], 1)
            else:
                with pytest.raises(DeviceError, match=r"link: .* is left: .*:7771, .*:7772 cannot"):
                    left.registered()


def test_an_open_tracker_warns() -> None:
    command = [sys.executable, "-m", "mnv2_tvm.device", "tracker", "--host", "0.0.0.0", "--port"]
    with subprocess.Popen([*command, "0"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.terminate()
    assert "warning: the tracker listens on 0.0.0.0" in line
    assert "no authentication" in line
