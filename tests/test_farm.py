"""Several boards at once, each a real server: one is lost, one is wrong, and two are faster."""

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from device_boards import (
    PATIENCE_S,
    addresses,
    free_port,
    ready_tracker,
    wait_for_boards,
    wait_until,
)
from rich.console import Console
from small_search import short_tune

from mnv2_tvm.deploy.link import compile_c, ffi_includes, link_shared
from mnv2_tvm.devices.emulate.board import LocalBoards
from mnv2_tvm.devices.rpc.farm import Farm
from mnv2_tvm.devices.rpc.session import Address, board_info
from mnv2_tvm.devices.rpc.tracker import Tracker, start_tracker
from mnv2_tvm.failures import Failure, Kind
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.candidate import Timing, build_candidate
from mnv2_tvm.measure.progress import Progress
from mnv2_tvm.measure.workers import WorkerPool
from mnv2_tvm.numbers import TOLERANCE
from mnv2_tvm.passes.packed_entry import ENTRY
from mnv2_tvm.pipeline import default_schedule
from mnv2_tvm.records.machine import Machine
from mnv2_tvm.records.tuning_log import TuningLog
from mnv2_tvm.target import Target

LAYER = "f32-dwconv-3x3s1-8x8x48"
SLEEP_MS = 30
SOURCES = Path(__file__).parent / "c"


@pytest.fixture
def tracker() -> Iterator[Tracker]:
    with ready_tracker() as running:
        yield running


def library(target: Target, source: str, folder: Path, *flags: str) -> Path:
    """One C file of tests/c with the entry of a candidate, compiled for the target."""
    built = folder / f"{source}.o"
    flags = (f"-DENTRY=__tvm_ffi_{ENTRY}", *ffi_includes(), *flags)
    compile_c(SOURCES / f"{source}.c", target, built, *flags)
    link_shared([built], target, folder / f"{source}.so")
    return folder / f"{source}.so"


def newcomer(tracker: Tracker, before: set[str]) -> str:
    """The board that registers next; its address."""
    address = tracker.host, tracker.port
    wait_until(lambda: len(addresses(address)) > len(before), "another board")
    (board,) = addresses(address) - before
    return board


@contextmanager
def right_board(tracker: Tracker, target: Target) -> Iterator[tuple[LocalBoards, str]]:
    """A board and its address."""
    before = addresses((tracker.host, tracker.port))
    with LocalBoards(target, (tracker.host, tracker.port)) as board:
        yield board, newcomer(tracker, before)


@contextmanager
def wrong_board(tracker: Tracker, target: Target, folder: Path) -> Iterator[str]:
    """The address of a board whose kernels get one value wrong."""
    before = addresses((tracker.host, tracker.port))
    script = Path(__file__).with_name("wrong_board.py")
    command = [sys.executable, str(script), str(library(target, "wrong_answer", folder))]
    command += ["--tracker", tracker.address, "--key", target.name, "--address", "127.0.0.1"]
    with subprocess.Popen([*command, "--with-parent", str(os.getpid())]) as process:
        try:
            yield newcomer(tracker, before)
        finally:
            process.terminate()


def test_a_search_with_a_board_that_dies_and_one_that_is_wrong(
    tracker: Tracker, here: Target, tmp_path: Path
) -> None:
    """No candidate is lost, none is recorded wrongly, and the run says what happened."""
    address = tracker.host, tracker.port
    log, said = TuningLog.of(here, tmp_path), io.StringIO()
    options: dict[str, Any] = {"trials": 24, "layer": LAYER, "log_dir": tmp_path}
    with (
        right_board(tracker, here),
        right_board(tracker, here) as (doomed, lost),
        wrong_board(tracker, here, tmp_path) as wrong,
    ):
        wait_for_boards(address, here.name, 3)

        def kill() -> None:
            wait_until(lambda: len(log.measurements()) >= 3, "measurements")
            doomed.close()

        killer = threading.Thread(target=kill)
        killer.start()
        report = short_tune(
            here,
            TINY,
            on=["tracker:{}:{}".format(*address)],
            console=Console(file=said, width=200),
            **options,
        )
        killer.join()
        assert wrong in addresses(address) and lost not in addresses(address)
    measured = log.measurements()
    assert len(measured) == report.tally.measured == 24 and report.tally.failed == 0
    for one in measured:
        assert one.median_us is not None and one.failure is None, one.failure
        assert one.max_error is not None and one.max_error <= TOLERANCE
    text = said.getvalue()
    dropped = f"the board at {wrong} is not used any more: it gives wrong numbers"
    assert text.count(dropped) == text.count(wrong) == 1, text
    gone = [line for line in text.splitlines() if lost in line]
    assert len(gone) == 1 and ("has left the tracker" in gone[0] or "is gone" in gone[0]), text


def test_a_search_outlives_its_tracker(
    here: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts again within a minute, and the boards that the search held register anew."""
    monkeypatch.setattr("mnv2_tvm.devices.rpc.farm._AWAY_S", PATIENCE_S)  # a loaded machine
    said, port = list[str](), free_port()
    layer = Layer.parse(LAYER)
    library = build_candidate(layer, default_schedule(layer, here), here, tmp_path / "one.so")
    jobs = [(layer, default_schedule(layer, here), library)]
    with ExitStack() as first, WorkerPool(1) as pool:
        tracker = first.enter_context(ready_tracker(port))
        address = Address((tracker.host, port), here.name)
        with LocalBoards(here, address.tracker):
            wait_for_boards(address.tracker, here.name)
            machine = Machine.of_board(board_info(address))
            wait_for_boards(address.tracker, here.name)
            farm = Farm(address, here, machine, pool, said.append)
            before = list(farm.measure(jobs))
            tracker.close()
            again = threading.Timer(2, lambda: first.enter_context(start_tracker(port=port)))
            again.start()
            after = list(farm.measure(jobs))
            again.join()
    for ((_, timing),) in (before, after):
        assert isinstance(timing, Timing) and timing.right, timing
    assert any("no tracker" in line for line in said)


def test_a_board_of_another_machine_is_not_used(here: Target) -> None:
    """Its times would rank with those of the first one."""
    said: list[str] = []
    address, machine = Address(("127.0.0.1", 1), here.name), Machine("A CPU")
    with WorkerPool(1) as pool:
        farm = Farm(address, here, machine, pool, said.append)
        layer = Layer.parse(LAYER)
        mine, other = (Timing(99.0, 0.0, cpu, cpu) for cpu in ("A CPU", "B CPU"))
        assert farm._judged(mine, layer) == mine
        refused = farm._judged(other, layer)
        assert isinstance(refused, Failure) and refused.kind is Kind.REFUSED
        farm._tell(refused)
    assert farm.address.avoid == {"B CPU"} and "not used any more" in said[0]


def test_two_boards_measure_more_than_one(tracker: Tracker, here: Target, tmp_path: Path) -> None:
    """Of a candidate that sleeps instead of computing, so that cores do not matter."""
    slow = library(here, "slow_pool", tmp_path, f"-DSLEEP_MS={SLEEP_MS}")
    layer = Layer.parse("f32-avgpool-4x4x16")
    jobs = [(layer, default_schedule(layer, here), slow)] * 8
    rates: list[float] = []
    with (
        right_board(tracker, here),
        right_board(tracker, here) as (_, second),
        WorkerPool(1) as pool,
    ):
        both = Address((tracker.host, tracker.port), here.name)
        wait_for_boards(both.tracker, here.name, 2)
        machine = Machine.of_board(board_info(both))
        wait_for_boards(both.tracker, here.name, 2)
        for address in (both.without({second}), both):
            farm = Farm(
                address, here, machine, pool, Progress(Console(file=io.StringIO()), 60).line
            )
            list(farm.measure(jobs[: address.boards()]))  # imports and sessions come first
            start = time.monotonic()
            timings = [timing for _, timing in farm.measure(jobs)]
            rates.append(len(jobs) / (time.monotonic() - start))
            assert all(isinstance(one, Timing) and one.right for one in timings), timings
            assert len({one.board for one in timings}) == pool.size == address.boards()
    print(f"{rates[0]:.2f} and {rates[1]:.2f} candidates a second")
    assert rates[1] >= 1.6 * rates[0], rates
