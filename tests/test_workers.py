"""The worker pool: every way in which a job ends, and no child that outlives the pool."""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnv2_tvm.device.failure import DeviceError, Failure, Kind
from mnv2_tvm.device.workers import WorkerPool

_PATIENCE_S = 60.0  # for what must happen soon; a loaded machine may take its time


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    """One child, so that the next job shows what the last one left."""
    with WorkerPool(1) as pool:
        yield pool


# Jobs: a spawned child imports them from this module.


def add(a: int, b: int) -> int:
    return a + b


def process_id() -> int:
    return os.getpid()


def fail(word: str) -> None:
    raise ValueError(f"bad {word}")


def lose_a_board(board: str) -> None:
    raise DeviceError(Kind.LINK, "it is gone", board)


def die(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(code: int) -> None:
    os._exit(code)


def answer_and_die(seconds: float) -> str:
    """The answer goes out, then an alarm ends the idle child: a candidate's late crash."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    return "done"


def no_pickle() -> object:
    return lambda: None


def hang(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    while True:
        time.sleep(1)


def leave_a_file(folder: str) -> None:
    """A job that is killed while it has a temporary file."""
    with tempfile.NamedTemporaryFile() as file:
        Path(folder, "name").write_text(file.name)
        os.kill(os.getpid(), signal.SIGKILL)


def meet(folder: str, name: str, other: str) -> str:
    """Wait for the other job: both must run at once."""
    Path(folder, name).touch()
    while not Path(folder, other).exists():
        time.sleep(0.01)
    return name


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def one(pool: WorkerPool, function: object, *arguments: object, timeout_s: float = 60.0) -> object:
    """The outcome of a single job."""
    ((number, result),) = pool.run(function, [arguments], timeout_s)  # type: ignore[arg-type]
    assert number == 0
    return result


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
    assert failure.message == f"ValueError: bad luck (fail in {__file__}:{line})"
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


def test_a_crash_names_the_signal_and_the_last_words(pool: WorkerPool) -> None:
    before = one(pool, process_id)
    failure = one(pool, die, "vector of 3 lanes")
    assert failure == Failure(Kind.CRASH, "the process ended with SIGSEGV. vector of 3 lanes")
    after = one(pool, process_id)
    assert isinstance(before, int) and isinstance(after, int)
    assert after != before and not alive(before)
    assert one(pool, die, "again") == Failure(Kind.CRASH, "the process ended with SIGSEGV. again")


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
    deadline = time.monotonic() + _PATIENCE_S
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
    assert failure == Failure(Kind.TIMEOUT, "no answer within 1 s")
    assert not alive(int(written.read_text()))
    assert one(pool, add, 1, 2) == 3


def test_failures_do_not_touch_the_jobs_beside_them(tmp_path: Path) -> None:
    with WorkerPool(2) as pool:
        list(pool.run(add, [(0, 0)] * 2, 60))
        jobs = [(str(tmp_path), "a", "b"), (str(tmp_path), "c", "a"), (str(tmp_path), "d", "c")]
        results = dict(pool.run(meet, jobs, 5))
    assert results[0] == Failure(Kind.TIMEOUT, "no answer within 5 s")  # nobody writes b
    assert results[1] == "c"
    assert results[2] == "d"


def test_temporary_files_of_a_killed_job_are_removed(pool: WorkerPool, tmp_path: Path) -> None:
    failure = one(pool, leave_a_file, str(tmp_path))
    assert failure == Failure(Kind.CRASH, "the process ended with SIGKILL.")
    assert not Path((tmp_path / "name").read_text()).exists()


def test_close_leaves_no_child(tmp_path: Path) -> None:
    pool = WorkerPool(2)
    children = [pid for _, pid in pool.run(process_id, [()] * 8, 60)]
    assert all(map(alive, children))
    pool.close()
    assert not any(map(alive, children))
    pool.close()


def test_children_leave_an_interrupt_to_the_parent(pool: WorkerPool) -> None:
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
        assert one(pool, add, 1, 2) == 3
        assert one(pool, add, 2, 2) == 4
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
        deadline = time.monotonic() + _PATIENCE_S
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
            list(pool.run(add, [(1, 2)], _PATIENCE_S))
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
    """The signal may reach another thread, and so the interpreter, while `start` blocks it."""

    def interrupted(process: object) -> None:
        raise KeyboardInterrupt

    context = multiprocessing.get_context("spawn")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(context.Process, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), WorkerPool(1) as pool:
        list(pool.run(add, [(1, 2)], _PATIENCE_S))
    assert list(tmp_path.iterdir()) == []
