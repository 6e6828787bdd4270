"""A session on a board, emulated and of this machine: what runs, crashes and hangs there."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tvm
from conftest import run_python
from device_boards import Address, assert_fails, crashing_library, session, upload, wait_for_boards

from mnv2_tvm.devices.emulate.board import LocalBoards
from mnv2_tvm.devices.emulate.userland import find_qemu
from mnv2_tvm.devices.rpc.listing import list_boards, summary
from mnv2_tvm.errors import UserError
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.candidate import build_candidate
from mnv2_tvm.measure.problem import problem
from mnv2_tvm.numbers import TOLERANCE, relative_error
from mnv2_tvm.passes.packed_entry import ENTRY
from mnv2_tvm.pipeline import default_schedule
from mnv2_tvm.target import Target
from mnv2_tvm.versions import versions

LAYER = Layer.of("pwconv", 1, 7, 7, 16, 24)
RASP4 = Target.load("rasp4")


@pytest.fixture(scope="module", params=["emulated", "local"])
def board(request: pytest.FixtureRequest, address: Address, here: Target) -> Iterator[Target]:
    """The target of one free board: a Raspberry Pi 4 under qemu, or this machine itself."""
    target = RASP4 if request.param == "emulated" else here
    if target is RASP4:
        try:
            find_qemu()
        except UserError as error:
            pytest.fail(f"the emulated board cannot be tested: {error}")
    with LocalBoards(target, address, qemu=target is RASP4):
        wait_for_boards(address, target.name)
        yield target


def test_a_board_tells_what_it_is(address: Address, board: Target) -> None:
    wait_for_boards(address, board.name)
    remote = session(address, board.name)
    info = json.loads(remote.get_function("mnv2.board_info")())
    assert info["machine"] == board.host.machine
    assert info["emulated"] == (board is RASP4)
    assert info["cores"] >= 1
    for package in ("apache-tvm", "apache-tvm-ffi"):
        assert info[package] == versions()[package]
    if info["emulated"]:
        assert info["clock_mhz"] is None and info["temperature_c"] is None
    else:
        assert set(board.host.features) <= set(info["features"])


def test_a_library_runs_on_the_board(address: Address, board: Target, tmp_path: Path) -> None:
    schedule = default_schedule(LAYER, board)
    library = build_candidate(LAYER, schedule, board, tmp_path / "layer.so")
    wait_for_boards(address, board.name)
    remote = session(address, board.name)
    upload(remote, library)
    module = remote.load_module("layer.so")
    device = remote.cpu()
    task = problem(LAYER)
    arguments = [tvm.runtime.tensor(a, device) for a in task.arguments(LAYER, schedule)]
    y = tvm.runtime.tensor(np.full(LAYER.output_shape, np.nan, np.float32), device)
    module[ENTRY](*arguments, y)
    assert relative_error(y.numpy(), task.reference) <= TOLERANCE
    seconds = module.time_evaluator(ENTRY, device, number=1, repeat=3)(*arguments, y).results
    assert all(second > 0 for second in seconds)


def test_a_crash_costs_one_session(address: Address, board: Target, tmp_path: Path) -> None:
    library = crashing_library(board, tmp_path)
    for _ in range(2):
        wait_for_boards(address, board.name)
        assert_fails(address, board.name, library, "crash")
    test_a_board_tells_what_it_is(address, board)


def test_a_session_that_hangs_ends_at_its_timeout(
    address: Address, board: Target, tmp_path: Path
) -> None:
    library = crashing_library(board, tmp_path)
    wait_for_boards(address, board.name)
    started = time.monotonic()
    assert_fails(address, board.name, library, "hang", timeout_s=3)
    assert time.monotonic() - started < 30
    test_a_board_tells_what_it_is(address, board)


def test_who_connects_and_says_nothing_does_not_keep_the_board(
    address: Address, board: Target
) -> None:
    wait_for_boards(address, board.name)
    (there,) = [b for b in summary(address)[0] if b.key == board.name]
    with socket.create_connection((there.host, there.port)):
        time.sleep(0.5)
        test_a_board_tells_what_it_is(address, board)


def test_list_shows_free_and_busy_boards(address: Address, board: Target) -> None:
    wait_for_boards(address, board.name)
    (free,) = [b for b in list_boards(address) if b.key == board.name]
    assert free.state == "free"
    assert free.info["emulated"] == (board is RASP4)
    wait_for_boards(address, board.name)
    remote = session(address, board.name)
    (busy,) = [b for b in list_boards(address) if b.key == board.name]
    assert (busy.state, busy.info) == ("busy", {})
    del remote
    wait_for_boards(address, board.name)
    done = run_python("-m", "mnv2_tvm.device", "list", "--tracker", "{}:{}".format(*address))
    assert done.returncode == 0, done.stderr
    assert board.name in done.stdout and "free" in done.stdout
    assert ("emulated" in done.stdout) == (board is RASP4)
