"""Worker processes with a deadline for every job.

An over-unrolled candidate can keep LLVM busy for minutes and a wrong one can crash: neither may
take the search down, so both run in a child that is killed and replaced.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from math import inf
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

from mnv2_tvm.devices.board.serve import end_with_parent
from mnv2_tvm.failures import DeviceError, Failure, Kind
from mnv2_tvm.files import scratch_folder

_START_S = 60.0  # a fresh child imports TVM before its first job
_COUNTED, _COUNTING_S = 3_000_000, 0.1  # a loop, and what it takes a PC
_SLOWEST = 30.0  # an emulated host takes about 5 times as long


@cache
def pace() -> float:
    """How many times as long as a PC this host needs, 1 at least: all deadlines are for a PC.

    In CPU time of this thread, so that other programs do not count.
    """
    start = time.thread_time()
    sum(range(_COUNTED))
    return min(max(1.0, (time.thread_time() - start) / _COUNTING_S), _SLOWEST)


class WorkerPool:
    """Children that run jobs of one function; `run` yields results as they come."""

    def __init__(self, size: int) -> None:
        self._workers = [_Worker() for _ in range(size)]
        self._running: Generator[Any, None, None] | None = None

    def run(
        self,
        function: Callable[..., Any],
        jobs: Iterable[tuple[Any, ...]],
        timeout_s: float,
        within_s: float = inf,
    ) -> Generator[tuple[int, Any | Failure], None, None]:
        """Yield (number of the job, result or Failure) in the order of completion.

        `function` is a module's function and `jobs` are its arguments. Each job has `timeout_s`,
        times the host's pace, and as long as it waits for a CPU; after `within_s` it ends without
        the results of the others. Whoever leaves early, or runs other jobs before these are done,
        gives up the rest of them.
        """
        if self._running is not None:
            self._running.close()
        end = time.monotonic() + within_s
        self._running = self._run(function, jobs, timeout_s, end)
        return self._running

    def _run(
        self,
        function: Callable[..., Any],
        jobs: Iterable[tuple[Any, ...]],
        timeout_s: float,
        end: float,
    ) -> Generator[tuple[int, Any | Failure], None, None]:
        waiting = list(enumerate(jobs))[::-1]
        idle = list(self._workers)
        busy: list[_Worker] = []
        try:
            while (waiting or busy) and time.monotonic() < end:
                while waiting and idle:
                    number, arguments = waiting.pop()
                    worker = idle.pop()
                    worker.start(number, function, arguments, timeout_s)
                    busy.append(worker)
                for worker in _finished(busy, end):
                    result = worker.result()
                    busy.remove(worker)
                    idle.append(worker)
                    yield worker.number, result
        finally:
            for worker in busy:  # its answer would be taken for that of the next job
                worker.kill()

    @property
    def size(self) -> int:
        """How many children run jobs at once."""
        return len(self._workers)

    def grow(self, size: int) -> None:
        """Add children until there are `size`."""
        self._workers += [_Worker() for _ in range(size - self.size)]

    def restart(self, size: int) -> None:
        """Start anew with `size` fresh children: whatever the old ones held is free again."""
        self.close()
        self._workers = [_Worker() for _ in range(size)]

    def close(self) -> None:
        """Kill the children."""
        for worker in self._workers:
            worker.kill()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Worker:
    """One child and the job it has."""

    def __init__(self) -> None:
        self._process: Any = None
        self._connection: Connection[Any, Any] | None = None
        self._scratch = Path()  # folder of the child's stderr and temporary files
        self._folders = ExitStack()  # that owns it
        self.number = 0
        self._timeout_s = 0.0
        self._end = 0.0
        self._waited_s = 0.0  # for a CPU, before this job

    @property
    def connection(self) -> "Connection[Any, Any]":
        assert self._connection is not None
        return self._connection

    @property
    def deadline(self) -> float:
        """When the job is late, unless other programs take the CPUs until then."""
        return self._end + max(0.0, _waited_s(self._process.pid) - self._waited_s)

    def start(
        self,
        number: int,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        timeout_s: float,
    ) -> None:
        self.number, self._timeout_s = number, timeout_s * pace()
        self._end = time.monotonic() + self._timeout_s
        if self._process is not None and not self._process.is_alive():
            self.kill()  # it died after its last answer
        if self._process is None:
            self._spawn()
            self._end += _START_S * pace()
        self._waited_s = _waited_s(self._process.pid)
        with suppress(BrokenPipeError):  # it died just now: `result` finds out
            self.connection.send((function, arguments))

    def result(self) -> Any | Failure:
        """The result of the finished, late or dead job; the last two cost the child its life."""
        if not self.connection.poll():
            self.kill()
            return Failure(Kind.TIMEOUT, f"no answer within {self._timeout_s:.0f} s")
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            end = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            words = _stderr(self._scratch).read_text(errors="replace").strip()
            self.kill()
            return Failure(Kind.CRASH, f"the process ended with {end}. {words}".strip())

    def kill(self) -> None:
        if self._process is not None:
            if self._process.pid is not None:  # Ctrl-C may have come before it was started
                self._process.kill()
                self._process.join()
            self.connection.close()
            self._folders.close()
        self._process = self._connection = None

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._scratch = self._folders.enter_context(scratch_folder())
        _stderr(self._scratch).touch()  # the child may die before it can
        arguments = (theirs, self._scratch, os.getpid())
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        resource_tracker.ensure_running()  # starting it later would unblock the signal
        with _interrupts_held(), _main_left_out():
            self._process.start()
        theirs.close()


def _finished(busy: list[_Worker], end: float) -> list[_Worker]:
    """Wait until a worker has answered, died, or is late, or to the end; those that have."""
    first = min(end, *(worker.deadline for worker in busy))
    ready = wait([worker.connection for worker in busy], max(0.0, first - time.monotonic()))
    now = time.monotonic()
    return [w for w in busy if w.connection in ready or w.deadline <= now]


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while a child is started: it is the parent's to handle, and later.

    The child inherits the blocked signal. That mask is only this thread's: another thread may take
    the signal, and Python would interrupt this one before it told the child what to do.
    """
    held = []
    main = threading.current_thread() is threading.main_thread()  # the only one to be interrupted
    handler = signal.signal(signal.SIGINT, lambda *_: held.append(True)) if main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGINT, handler)
    if held:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def _main_left_out() -> Iterator[None]:
    """Start a child that does not import this program's main module.

    No job is of it, and it imports TVM: for seconds the child would not see that its parent died.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _waited_s(pid: int) -> float:
    """How long a process was ready to run since its start, while others had the CPUs."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) * 1e-9
    except (OSError, ValueError, IndexError):  # a kernel need not count it
        return 0.0


def _stderr(scratch: Path) -> Path:
    return scratch / "stderr"


def _serve(connection: "Connection[Any, Any]", scratch: Path, parent: int) -> None:
    """The child: run jobs until the parent is gone."""
    end_with_parent(signal.SIGKILL, parent)
    with _stderr(scratch).open("wb") as file:
        os.dup2(file.fileno(), 2)
    tempfile.tempdir = str(scratch)  # a killed job cannot clean up; the parent does
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = function(*arguments)
        except DeviceError as error:
            answer = Failure(error.kind, error.message, error.board)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{last.name} in {last.filename}:{last.lineno}"
            answer = Failure(Kind.ERROR, f"{type(error).__name__}: {error} ({where})")
        connection.send(answer)
