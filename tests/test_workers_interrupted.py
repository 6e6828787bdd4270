"""Ctrl-C and the worker pool: it is the parent's to handle, and no child is left or complains."""

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
from worker_jobs import PATIENCE_S, add, alive, hang, one, process_id

from mnv2_tvm.failures import Failure
from mnv2_tvm.measure.workers import WorkerPool


def test_children_leave_an_interrupt_to_the_parent() -> None:
    """Ctrl-C signals every process of a terminal, also those that only start."""
    answered = threading.Event()

    def interrupt_children() -> None:
        while not answered.is_set():
            for child in multiprocessing.active_children():
                assert child.pid is not None
                os.kill(child.pid, signal.SIGINT)
            time.sleep(0.001)

    thread = threading.Thread(target=interrupt_children)
    thread.start()
    try:
        with WorkerPool(1) as pool:
            assert one(pool, add, 1, 2) == 3
            assert one(pool, add, 2, 2) == 4
            answered.set()
            thread.join()  # before the pool ends its children: their numbers are nobody's then
    finally:
        answered.set()
        thread.join()


def test_an_interrupt_leaves_no_child(tmp_path: Path) -> None:
    """Ctrl-C while one child is idle and the other one hangs."""
    written = tmp_path / "pid"
    with pytest.raises(KeyboardInterrupt), WorkerPool(2) as pool:
        idle = {pid for _, pid in pool.run(process_id, [()] * 2, 60)}
        jobs = pool.run(hang, [(str(written),), ("/",)], 600)
        number, failure = next(jobs)
        assert number == 1 and isinstance(failure, Failure)  # the other job: / is a folder
        assert failure.kind == "error"
        deadline = time.monotonic() + PATIENCE_S
        while not written.exists() or not written.read_text():
            assert time.monotonic() < deadline
        raise KeyboardInterrupt
    assert not any(map(alive, [*idle, int(written.read_text())]))


def test_an_interrupt_waits_until_the_child_has_its_orders(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Any thread may take the signal, and so it comes although `start` blocks it in this one."""
    spawn = multiprocessing.util.spawnv_passfds

    def interrupted(*arguments: object) -> int:
        pid: int = spawn(*arguments)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)  # the other thread takes it
        return pid

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt), WorkerPool(1) as pool:
            monkeypatch.setattr(pool, "close", lambda: None)  # a killed child could not complain
            list(pool.run(add, [(1, 2)], PATIENCE_S))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        over.set()
        other.join()
        signal.signal(signal.SIGINT, before)
    (child,) = multiprocessing.active_children()
    child.join(3)  # without its orders it ends at once
    assert child.is_alive()
    WorkerPool.close(pool)
    assert not alive(child.pid)
    assert capfd.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_ctrl_c_kept_from_starting_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its scratch folder and its pipe are there already."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(resource_tracker, "ensure_running", interrupted)
    with pytest.raises(KeyboardInterrupt), WorkerPool(1) as pool:
        list(pool.run(add, [(1, 2)], PATIENCE_S))
    assert list(tmp_path.iterdir()) == []
