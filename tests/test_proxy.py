"""Boards that only connect out: through a real proxy, with boards of this machine behind it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Built, run_python
from device_boards import Address as TrackerAddress
from device_boards import (
    assert_fails,
    crashing_library,
    free_port,
    ready_tracker,
    wait_for_boards,
    wait_until,
)
from tvm.rpc.base import TrackerCode

import mnv2_tvm.device
from mnv2_tvm import load
from mnv2_tvm.device.listing import list_boards, summary
from mnv2_tvm.device.remote_network import RemoteNetwork
from mnv2_tvm.device.session import Address, Session
from mnv2_tvm.device.tracker import Tracker, ask, connect
from mnv2_tvm.search.records import TuningLog
from mnv2_tvm.target import Target
from mnv2_tvm.tune import tune

BOARD = Path(mnv2_tvm.device.__file__).parent  # the folder that holds `board`, as in a kit


@contextmanager
def proxy(tracker: str, port: int = 0) -> Iterator[str]:
    """The verb in a process of its own; the address that it prints."""
    command = [sys.executable, "-m", "mnv2_tvm.device", "proxy", "--tracker", tracker]
    with subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.match(r"proxy on (127\.0\.0\.1:\d+) for the tracker", line)
            assert found, line
            yield found[1]
        finally:
            process.kill()


@contextmanager
def board(proxy: str, key: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The server of a kit, told of the proxy alone."""
    command = [sys.executable, "-m", "board.serve", "--proxy", proxy, "--key", key]
    with subprocess.Popen(
        [*command, "--with-parent", str(os.getpid())], cwd=BOARD, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def two(tracker: Tracker, address: TrackerAddress, here: Target) -> Iterator[Address]:
    """Two boards of this machine behind one proxy."""
    with proxy(tracker.address) as there, board(there, here.name), board(there, here.name):
        wait_for_boards(address, here.name, 2)
        yield Address(address, here.name)


def test_a_library_runs_through_the_proxy(two: Address, tiny: Built) -> None:
    wait_for_boards(two.tracker, two.key)
    images = tiny.network.images(1)
    remote = RemoteNetwork(Session(two), tiny.folder)
    np.testing.assert_array_equal(remote(images), load(tiny.folder)(images))


def test_boards_with_one_address_are_told_apart_and_counted(two: Address) -> None:
    wait_for_boards(two.tracker, two.key, 2)
    first = Session(two)
    second = Session(two)
    assert first.board != second.board
    assert first.board.split()[0] == second.board.split()[0]
    assert two.boards() == 2, "busy ones count too"
    states = [b.state for b in list_boards(two.tracker) if b.key == two.key]
    assert states == ["busy", "busy"]
    del first
    wait_for_boards(two.tracker, two.key)
    boards = [b for b in list_boards(two.tracker) if b.key == two.key]
    assert sorted(b.state for b in boards) == ["busy", "free"]
    assert second.board
    assert two.boards() == 2, "also just after a session"


def test_a_crash_behind_the_proxy_costs_one_session(
    two: Address, here: Target, tmp_path: Path
) -> None:
    wait_for_boards(two.tracker, two.key, 2)
    library = crashing_library(here, tmp_path)
    assert_fails(two.tracker, two.key, library, "crash")
    wait_for_boards(two.tracker, two.key, 2)


def test_a_hang_behind_the_proxy_ends_at_its_timeout(
    two: Address, here: Target, tmp_path: Path
) -> None:
    wait_for_boards(two.tracker, two.key, 2)
    library = crashing_library(here, tmp_path)
    assert_fails(two.tracker, two.key, library, "hang", timeout_s=3)
    wait_for_boards(two.tracker, two.key, 2)


def test_a_search_runs_through_the_proxy(two: Address, here: Target, tmp_path: Path) -> None:
    wait_for_boards(two.tracker, two.key, 2)
    report = tune(
        here,
        TINY,
        trials=6,
        layer="f32-dwconv-3x3s1-?x?x*",
        log_dir=tmp_path,
        tracker=two.tracker,
    )
    assert report.tally.failed == 0
    assert all(one.median_us is not None for one in TuningLog.of(here, tmp_path).measurements())


def test_a_board_that_left_is_forgotten(tracker: Tracker, address: TrackerAddress) -> None:
    """Though the tracker has it from the proxy, which stays."""
    with proxy(tracker.address) as there, board(there, "leaves") as leaving:
        wait_for_boards(address, "leaves")
        with board(there, "stays"):
            wait_for_boards(address, "stays")
            leaving.send_signal(signal.SIGTERM)
            wait_until(lambda: not summary(address)[1]["leaves"], "no free board")
            wait_until(lambda: "leaves" not in {b.key for b in summary(address)[0]}, "none at all")
            wait_for_boards(address, "stays")
            (here,) = [b for b in list_boards(address) if b.key == "stays"]
            assert here.state == "free"


def test_a_client_that_never_comes_gives_the_board_back(
    tracker: Tracker, address: TrackerAddress
) -> None:
    with proxy(tracker.address) as there, board(there, "asked"):
        wait_for_boards(address, "asked")
        with closing(connect(address)) as connection:
            ask(connection, TrackerCode.REQUEST, "asked", "test", 1)
        assert not summary(address)[1]["asked"]
        wait_for_boards(address, "asked")
        (asked,) = [b for b in list_boards(address) if b.key == "asked"]
        assert asked.state == "free"


def test_tracker_and_proxy_may_be_started_again(here: Target) -> None:
    tracker_port, proxy_port = free_port(), free_port()
    address = "127.0.0.1", tracker_port
    with (
        ready_tracker(port=tracker_port) as first,
        proxy(first.address, proxy_port) as there,
        board(there, here.name),
    ):
        wait_for_boards(address, here.name)
        first.close()
        with ready_tracker(port=tracker_port):
            wait_for_boards(address, here.name)
            assert Session(Address(address, here.name)).info["machine"] == here.host.machine
    with (
        ready_tracker(port=tracker_port) as second,
        board(f"127.0.0.1:{proxy_port}", here.name),
        proxy(second.address, proxy_port),
    ):
        wait_for_boards(address, here.name)


def test_a_proxy_without_a_tracker_says_so() -> None:
    there = f"127.0.0.1:{free_port()}"
    done = run_python("-m", "mnv2_tvm.device", "proxy", "--tracker", there, "--port", "0")
    assert done.returncode == 1
    assert f"no tracker at {there}" in done.stderr


def test_an_open_proxy_warns(tracker: Tracker) -> None:
    command = [sys.executable, "-m", "mnv2_tvm.device", "proxy", "--host", "0.0.0.0", "--port", "0"]
    with subprocess.Popen(
        [*command, "--tracker", tracker.address], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.terminate()
    assert "warning: the proxy listens on 0.0.0.0" in line
    assert "no authentication" in line
