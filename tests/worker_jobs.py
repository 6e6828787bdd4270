"""Jobs for worker processes, which import them from here, and what their tests ask."""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.measure.workers import WorkerPool

PATIENCE_S = 60.0  # for what must happen soon; a loaded machine may take its time


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


def compute(cpu: int, seconds: float) -> None:
    """Need so many seconds of this CPU, whoever else has it."""
    os.sched_setaffinity(0, {cpu})
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


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
