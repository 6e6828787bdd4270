"""The worker pool: every way in which a job ends, and no child that outlives the pool."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from device_boards import wait_until
from worker_jobs import (
    PATIENCE_S,
    add,
    alive,
    answer_and_die,
    compute,
    die,
    fail,
    hang,
    leave,
    leave_a_file,
    lose_a_board,
    meet,
    no_pickle,
    one,
    process_id,
)

import mnv2_tvm
from mnv2_tvm.failures import Failure, Kind
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.measure.workers import WorkerPool, pace


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    """One child, so that the next job shows what the last one left."""
    with WorkerPool(1) as pool:
        yield pool


@contextmanager
def busy(cpu: int, programs: int) -> Iterator[None]:
    """A CPU that other programs want all the time."""
    code = f"import os; os.sched_setaffinity(0, [{cpu}]); print(flush=True)\nwhile True: pass"
    with ExitStack() as stack:
        for _ in range(programs):
            command = [sys.executable, "-c", code]
            program = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(program.kill)
            assert program.stdout is not None
            program.stdout.readline()
        yield


def test_results_come_with_the_number_of_their_job() -> None:
    with WorkerPool(2) as pool:
        jobs = [(i, 10 * i) for i in range(20)]
        assert dict(pool.run(add, jobs, 60)) == {i: 11 * i for i in range(20)}
        assert dict(pool.run(add, [], 60)) == {}
        assert dict(pool.run(add, iter([(1, 1)]), 60)) == {0: 2}


def test_children_run_at_once(tmp_path: Path) -> None:
    with WorkerPool(2) as pool:
        jobs = [(str(tmp_path), "a", "b"), (str(tmp_path), "b", "a")]
        assert dict(pool.run(meet, jobs, 60)) == {0: "a", 1: "b"}


def test_an_exception_is_an_error_with_message_and_place(pool: WorkerPool) -> None:
    before = one(pool, process_id)
    failure = one(pool, fail, "luck")
    assert isinstance(failure, Failure)
    assert failure.kind == "error"
    line = fail.__code__.co_firstlineno + 1
    assert failure.message == f"ValueError: bad luck (fail in {fail.__code__.co_filename}:{line})"
    assert str(failure) == f"error: {failure.message}"
    assert one(pool, process_id) == before, "an exception must not cost the child"


def test_a_failure_on_a_board_keeps_its_kind_and_the_board(pool: WorkerPool) -> None:
    failure = one(pool, lose_a_board, "10.0.0.7:9091")
    assert failure == Failure(Kind.LINK, "it is gone", "10.0.0.7:9091")
    assert str(failure) == "link: it is gone"


def test_a_pool_grows_and_starts_anew(pool: WorkerPool) -> None:
    before = one(pool, process_id)
    pool.grow(2)
    pool.grow(1)
    assert pool.size == 2
    pool.restart(1)
    assert pool.size == 1 and isinstance(before, int) and not alive(before)
    assert one(pool, process_id) != before


def crash(pool: WorkerPool, words: str) -> str:
    """The message of a job that dies with these words, without what qemu adds on such a host."""
    failure = one(pool, die, words)
    assert isinstance(failure, Failure) and failure.kind is Kind.CRASH
    return failure.message.partition("\nqemu: uncaught target signal")[0]


def test_a_crash_names_the_signal_and_the_last_words(pool: WorkerPool) -> None:
    before = one(pool, process_id)
    assert crash(pool, "vector of 3 lanes") == "the process ended with SIGSEGV. vector of 3 lanes"
    after = one(pool, process_id)
    assert isinstance(before, int) and isinstance(after, int)
    assert after != before and not alive(before)
    assert crash(pool, "again") == "the process ended with SIGSEGV. again"


def test_an_exit_is_a_crash_with_its_code(pool: WorkerPool) -> None:
    assert one(pool, leave, 3) == Failure(Kind.CRASH, "the process ended with exit code 3.")
    assert one(pool, add, 1, 2) == 3


def test_an_answer_that_cannot_be_sent_is_a_failure(pool: WorkerPool) -> None:
    failure = one(pool, no_pickle)
    assert isinstance(failure, Failure)
    assert "pickle" in failure.message
    assert one(pool, add, 1, 2) == 3


def test_a_child_that_dies_between_two_jobs_is_replaced(pool: WorkerPool) -> None:
    assert one(pool, answer_and_die, 0.2) == "done"
    deadline = time.monotonic() + PATIENCE_S
    while multiprocessing.active_children():
        assert time.monotonic() < deadline, "the child is still there"
        time.sleep(0.01)
    assert one(pool, add, 1, 2) == 3


def test_a_child_that_dies_before_its_first_job_is_replaced(pool: WorkerPool) -> None:
    """Killed by the system for its memory, say, while it imports TVM."""

    def kill_the_child() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.001)
        children[0].kill()

    thread = threading.Thread(target=kill_the_child)
    thread.start()
    failure = one(pool, add, 1, 2)
    thread.join()
    assert failure == Failure(Kind.CRASH, "the process ended with SIGKILL.")
    assert one(pool, add, 1, 2) == 3


def test_a_job_that_hangs_is_a_timeout(pool: WorkerPool, tmp_path: Path) -> None:
    one(pool, add, 1, 1)  # a fresh child has more time, to start
    written = tmp_path / "pid"
    failure = one(pool, hang, str(written), timeout_s=1)
    assert isinstance(failure, Failure) and failure.kind is Kind.TIMEOUT
    assert not alive(int(written.read_text()))
    assert one(pool, add, 1, 2) == 3


def test_a_slow_host_has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= pace() <= 30
    monkeypatch.setattr("mnv2_tvm.measure.workers.pace", lambda: 20.0)
    with WorkerPool(1) as pool:
        one(pool, process_id)  # the child is there
        assert dict(pool.run(time.sleep, [(0.5,)], 0.1)) == {0: None}


def test_the_time_that_others_have_the_cpu_does_not_count(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnv2_tvm.measure.workers.pace", lambda: 1.0)
    one(pool, process_id)  # the child is there
    cpu, timeout_s = min(os.sched_getaffinity(0)), 1.0
    with busy(cpu, programs=4):
        start = time.monotonic()
        assert one(pool, compute, cpu, 0.5 * timeout_s, timeout_s=timeout_s) is None
        assert time.monotonic() - start > timeout_s


def test_failures_do_not_touch_the_jobs_beside_them(tmp_path: Path) -> None:
    with WorkerPool(2) as pool:
        list(pool.run(add, [(0, 0)] * 2, 60))
        jobs = [(str(tmp_path), "a", "b"), (str(tmp_path), "c", "a"), (str(tmp_path), "d", "c")]
        results = dict(pool.run(meet, jobs, 5))
    late = f"no answer within {5 * pace():.0f} s"
    assert results[0] == Failure(Kind.TIMEOUT, late)  # nobody writes b
    assert results[1] == "c"
    assert results[2] == "d"


def test_temporary_files_of_a_killed_job_are_removed(pool: WorkerPool, tmp_path: Path) -> None:
    failure = one(pool, leave_a_file, str(tmp_path))
    assert failure == Failure(Kind.CRASH, "the process ended with SIGKILL.")
    assert not Path((tmp_path / "name").read_text()).exists()


def test_who_leaves_early_gets_no_answer_of_the_jobs_left_behind(tmp_path: Path) -> None:
    """The children that were busy then are replaced, whether the rest is closed or forgotten."""
    with WorkerPool(2) as pool:
        for close in (True, False):
            jobs = pool.run(add, [(n, 0) for n in range(20)], 60)
            next(jobs)
            if close:
                jobs.close()
            later = dict(pool.run(add, [(100, n) for n in range(4)], 60))
            assert later == {n: 100 + n for n in range(4)}
            assert list(jobs) == []


def test_a_run_ends_when_its_time_is_up(pool: WorkerPool, tmp_path: Path) -> None:
    one(pool, process_id)
    start = time.monotonic()
    written = tmp_path / "pid"
    assert list(pool.run(hang, [(str(written),)], 60, within_s=2)) == []
    assert time.monotonic() - start < 20
    assert not alive(int(written.read_text()))


@pytest.mark.parametrize("when", ["it starts", "it works"])
def test_a_child_ends_with_its_parent_and_the_next_run_removes_its_folder(
    tmp_path: Path, when: str
) -> None:
    """A parent that is killed can tell nobody."""
    written = tmp_path / "pid"
    package = str(Path(mnv2_tvm.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": package, "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(Path(__file__).with_name("killed_parent.py")), str(written)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        if when == "it works":
            wait_until(lambda: written.exists() and bool(written.read_text()), "the job")
        parent.kill()
    wait_until(lambda: not alive(child), "the end of the child", 10)
    assert any(path.is_dir() for path in tmp_path.iterdir())
    with scratch_folder(tmp_path, "mnv2-"):
        pass
    assert not any(path.is_dir() for path in tmp_path.iterdir())


def test_close_leaves_no_child(tmp_path: Path) -> None:
    pool = WorkerPool(2)
    children = [pid for _, pid in pool.run(process_id, [()] * 8, 60)]
    assert all(map(alive, children))
    pool.close()
    assert not any(map(alive, children))
    pool.close()
