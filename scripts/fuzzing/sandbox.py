"""Many inputs through one parser, in a process of its own that is watched from outside."""

import contextlib
import ctypes
import faulthandler
import gc
import io
import mmap
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from mnv2_tvm.errors import UserError
from mnv2_tvm.untrusted import printable

HANG_S = 5.0
MOST_BYTES = 256 * 2**20  # that one input may take
_WALL_BYTES = 4 * MOST_BYTES  # of address space: what would take more must not take the machine
_LONGEST = 4100  # characters of a message
_ENDS = 5  # after so many ends of its process a parser is given up
_SHOWN = 300  # characters of an input in a report

Parse = Callable[[Any], object]


@dataclass(frozen=True)
class Parser:
    """A reader of foreign text or bytes, and how to make inputs for it."""

    name: str
    make: Callable[[Random], Any]  # an input
    open: Callable[[Path], Parse]  # in the process that runs it, with a folder for its files
    sound: tuple[Any, ...] = ()  # inputs that it must take


@dataclass
class Fault:
    """One kind of fault, with the first input that showed it."""

    what: str
    index: int
    value: str
    where: str
    count: int = 1


@dataclass
class Outcome:
    """What came of a parser's inputs."""

    name: str
    inputs: int = 0
    refused: int = 0
    worst_ms: float = 0.0
    peak_bytes: int = 0
    faults: dict[tuple[str, str], Fault] = field(default_factory=dict)

    def add(self, fault: Fault) -> None:
        """Note a fault; of the same kind at the same place only the number."""
        known = self.faults.setdefault((fault.what.split(":")[0], fault.where), fault)
        known.count += known is not fault


class Progress(ctypes.Structure):
    """What the child tells without a message: its memory is shared."""

    _fields_ = (
        ("index", ctypes.c_longlong),  # of the input that runs
        ("began", ctypes.c_double),  # when it began, 0 between two
        ("inputs", ctypes.c_longlong),
        ("refused", ctypes.c_longlong),
        ("worst_ms", ctypes.c_double),
        ("peak_bytes", ctypes.c_longlong),
    )


def make_input(parser: Parser, seed: int, index: int) -> Any:
    """Input `index` of a parser: the same in every run."""
    return parser.make(Random(f"{seed} {parser.name} {index}"))


def run(parser: Parser, seed: int, inputs: range) -> Outcome:
    """Feed the inputs to the parser; one that hangs is tried again once, as machines are busy."""
    outcome = Outcome(parser.name)
    shared = Progress.from_buffer(mmap.mmap(-1, ctypes.sizeof(Progress)))
    start, ends, suspect = inputs.start, 0, -1
    while start < inputs.stop and ends < _ENDS:
        ended = _watch(parser, seed, range(start, inputs.stop), outcome, shared)
        if ended is None:
            break
        start = shared.index
        if ended[0] == "hang" and start != suspect:
            suspect = start
            continue
        value = printable(repr(make_input(parser, seed, start)), _SHOWN)
        outcome.add(Fault(ended[0], start, value, ended[1]))
        shared.inputs += 1
        ends, start = ends + 1, start + 1
    outcome.inputs, outcome.refused = shared.inputs, shared.refused
    outcome.worst_ms, outcome.peak_bytes = shared.worst_ms, shared.peak_bytes
    return outcome


def _watch(
    parser: Parser, seed: int, inputs: range, outcome: Outcome, shared: Progress
) -> tuple[str, str] | None:
    """Run inputs in a child until all are done, or say why it ended at `shared.index`."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    shared.index, shared.began = inputs.start, 0.0
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_quick_folder()) as folder:
        arguments = (parser, seed, inputs, Path(folder), there, shared)
        child = context.Process(target=_work, args=arguments)
        child.start()
        there.close()
        try:
            return _follow(child, here, outcome, shared, Path(folder))
        finally:
            child.kill()
            child.join()
            here.close()


def _follow(
    child: Any, here: Connection, outcome: Outcome, shared: Progress, folder: Path
) -> tuple[str, str] | None:
    while True:
        try:
            while here.poll(0.1):
                fault = here.recv()
                if fault is None:
                    return None
                outcome.add(fault)
        except EOFError:
            break
        if shared.began and time.monotonic() - shared.began > HANG_S:
            return "hang", _stack(child.pid, folder)
    child.join()
    return f"died with exit code {child.exitcode}", _said_place(folder)


def _stack(pid: int, folder: Path) -> str:
    """Where the child is: its handler of SIGABRT says so."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGABRT)
        time.sleep(0.3)
    return _said_place(folder)


def _said_place(folder: Path) -> str:
    """Of the stack in the child's last words the innermost line of ours, else of any."""
    lines = (folder / "stderr").read_text(errors="replace").splitlines()
    places = [line.strip() for line in lines if line.strip().startswith("File ")]
    ours = [place for place in places if "mnv2_tvm" in place]
    return printable((ours or places or lines[-1:] or ["it says nothing"])[0])


def _work(
    parser: Parser, seed: int, inputs: range, folder: Path, pipe: Connection, shared: Progress
) -> None:
    """The child: feed the inputs and report."""
    with (folder / "stderr").open("wb") as stderr:
        os.dup2(stderr.fileno(), 2)
    faulthandler.enable(2)  # SIGABRT says where it hangs
    tempfile.tempdir = str(folder / "tmp")
    (folder / "tmp").mkdir()
    (folder / "own").mkdir()
    parse = parser.open(folder / "own")
    for value in parser.sound if inputs.start == 0 else ():
        _check_sound(parse, value, pipe)
    files, base = _open_files(), _peak_bytes()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _WALL_BYTES,) * 2)
    for index in inputs:
        value = make_input(parser, seed, index)
        _reset_peak()
        shared.index, shared.began = index, time.monotonic()
        refused, fault = judge(parse, value)
        took_s, shared.began = time.monotonic() - shared.began, 0.0
        peak = _peak_bytes() - base
        if not fault and peak > MOST_BYTES:
            fault = f"memory: {peak >> 20} MB", "the process"
        if fault:
            pipe.send(Fault(fault[0], index, printable(repr(value), _SHOWN), fault[1]))
        shared.inputs += 1
        shared.refused += refused
        shared.worst_ms = max(shared.worst_ms, 1e3 * took_s)
        shared.peak_bytes = max(shared.peak_bytes, peak)
    for what in _left_behind(folder, files):
        pipe.send(Fault(what, inputs[-1], "", "after all inputs"))
    pipe.send(None)


def _check_sound(parse: Parse, value: Any, pipe: Connection) -> None:
    refused, fault = judge(parse, value)
    if refused or fault:
        why = fault[0] if fault else "UserError"
        shown = printable(repr(value), _SHOWN)
        pipe.send(Fault(f"a sound input is refused: {why}", -1, shown, "before all inputs"))


def judge(parse: Parse, value: Any) -> tuple[bool, tuple[str, str] | None]:
    """Whether the parser refuses the input, and the fault with its place if it does so wrongly."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parse(value)
        return False, _harmful(said.getvalue(), 10**5, "a warning")
    except UserError as error:
        return True, _harmful(str(error), _LONGEST, "the message", error)
    except MemoryError as error:
        return False, ("memory: MemoryError", _place(error))
    except Exception as error:
        return False, (f"{type(error).__name__}: {printable(error)}", _place(error))


def _harmful(
    text: str, limit: int, what: str, error: Exception | None = None
) -> tuple[str, str] | None:
    """What is wrong with a text that a user sees."""
    where = _place(error) if error else "the text"
    if len(text) > limit:
        return f"{what} is long: {len(text)} characters, {printable(text, 60)}", where
    if any(printable(part, len(part)) != part for part in re.split("[\n\t]", text)):
        return f"{what} has control characters: {printable(ascii(text))}", where
    return None


def _place(error: Exception) -> str:
    """The last line of ours that the error went through, else the last one."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}mnv2_tvm{os.sep}" in frame.filename]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _left_behind(folder: Path, files: int) -> list[str]:
    gc.collect()
    found = [f"left behind: {path.name}" for path in (folder / "tmp").iterdir()]
    now = _open_files()
    return [*found[:3], *[f"left open: {now - files} files"] * (now > files + 4)]


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _quick_folder() -> str | None:
    """A folder in memory, where flushing a file to the disk takes no time."""
    memory = Path("/dev/shm")
    quick = (
        memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**28
    )
    return str(memory) if quick and sys.platform == "linux" else None
