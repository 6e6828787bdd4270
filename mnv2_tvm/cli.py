"""What all verbs share: one console script, errors without a traceback, and common options.

Each verb is a module `mnv2_tvm.VERB` with a plain function of the same name first and
`main` last; `main` has the command line's types and `python -m mnv2_tvm.VERB` runs it.
"""

import errno
import importlib
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from mnv2_tvm.errors import UserError
from mnv2_tvm.untrusted import printable

if TYPE_CHECKING:  # at run time it would load TVM
    from mnv2_tvm import target as targets

_MAKE_ROOM = "make room there, or set TMPDIR to a folder that has some"
_CHECK_RIGHTS = "check the path and its permissions"
_REMEDIES = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: "raise the limit of a file's size, see ulimit -f",
    errno.EROFS: "give another path, or set TMPDIR to a folder that can be written",
    errno.EACCES: _CHECK_RIGHTS,
    errno.EPERM: _CHECK_RIGHTS,
    errno.EMFILE: "raise the limit of open files, see ulimit -n",
}

VERBS = ("tune", "build", "bench", "run", "show", "doctor", "model", "device")

Target = Annotated[
    str, typer.Option(help="A file in targets/, without .toml; host: the one for this machine.")
]
Width = Annotated[float, typer.Option(help="Width multiplier, 0.35 to 1.4.")]
Resolution = Annotated[int, typer.Option(help="Height and width of the image, 32 or more.")]
Classes = Annotated[int, typer.Option(help="Outputs of the classifier.")]
Threads = Annotated[int, typer.Option(min=1, max=64, help="Threads of a run.")]
On = Annotated[
    list[str] | None,
    typer.Option(
        help="Where to measure: here, tracker[:HOST[:PORT]], ssh:HOST or adb[:SERIAL]; repeatable."
    ),
]
Tracker = Annotated[str | None, typer.Option(hidden=True, help="As --on tracker:HOST:PORT.")]
Via = Annotated[str | None, typer.Option(hidden=True, help="As --on.")]
Runner = Annotated[
    str | None,
    typer.Option(help="With ssh and adb: stands before the program there, e.g. 'taskset f0'."),
]
LogDir = Annotated[
    Path | None,
    typer.Option(help="Tuning logs to take records from; default: yours, then the shipped ones."),
]
State = Annotated[
    str | None, typer.Option(help="Which network, where the file of --weights holds several.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of random weights and inputs.")]


def load_target(name: str) -> "targets.Target":
    """The target `name`; says on stderr which one a group such as `host` stands for, and why."""
    from mnv2_tvm.target import Target as Machine  # TVM with it

    target, why = Machine.load_with_reason(name)
    if why:
        print(f"target {target.name}: {why}", file=sys.stderr)
    return target


def ways(on: list[str] | None, tracker: str | None, via: str | None) -> list[str]:
    """Those of `--on`, by default this machine, with the options that it replaced."""
    old = [f"tracker:{tracker}"] * bool(tracker) + [via or ""] * bool(via)
    if old and (on or len(old) > 1):
        raise UserError(f"--on replaces --tracker and --via: give --on {' --on '.join(old)} alone")
    for one in old:
        typer.echo(f"note: --tracker and --via will go; give --on {printable(one)}", err=True)
    return on or old or ["here"]


def console() -> Console:
    """Where a verb prints its tables: as wide as the terminal, and unwrapped in a file or pipe."""
    return plain_console() if sys.stdout.isatty() else plain_console(width=240)


def plain_console(**options: Any) -> Console:
    """A console that prints text as it is: brackets and colons of a path are no markup."""
    return Console(markup=False, emoji=False, highlight=False, **options)


def tell(notes: Iterable[str]) -> None:
    """Print what the user should know, apart from the results."""
    for note in notes:
        typer.echo(f"note: {note}", err=True)


@contextmanager
def progress(first: str) -> Iterator[Callable[[str], None]]:
    """Show what is going on in a live line on a terminal; in a log or a pipe nothing.

    What this gives is called with what goes on next.
    """
    screen = plain_console(stderr=True)
    if not screen.is_terminal:
        yield lambda text: None
        return
    with screen.status(Text(first)) as line:
        yield lambda text: line.update(Text(text))


def cpu_list(text: str) -> list[int]:
    """The numbers in `4,5,6`. Raises UserError for anything else."""
    words = text.split(",")
    cpus = [int(word) for word in words if re.fullmatch("[0-9]{1,5}", word)]
    if len(cpus) < len(words) or len(set(cpus)) < len(cpus):
        words_told = printable(text)
        raise UserError(f"--cpus {words_told}: give numbers of CPUs, each once, such as 0,1")
    count = os.sysconf("SC_NPROCESSORS_CONF")
    if max(cpus) >= count:
        raise UserError(f"--cpus {max(cpus)}: this machine has CPUs 0 to {count - 1}")
    return cpus


def check_writable(path: Path) -> None:
    """Raises UserError, before the work, for a file that cannot be written."""
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; give the file a name in it")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: {path.parent} is not a folder")
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, a FIFO: not to be opened twice
            writable = os.access(path, os.W_OK)
        else:
            with tempfile.TemporaryFile(dir=path.resolve().parent):
                writable = True
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    if not writable:
        raise UserError(f"cannot write {path}: no permission; give another path")


def run_verb(
    main: Callable[..., Any],
    arguments: list[str] | None = None,
    verbs: Mapping[str, Callable[..., Any]] | None = None,
) -> None:
    """Run one verb's `main` on the command line; a UserError ends it in one sentence.

    With `verbs` of its own, such as `device list`, `main` does nothing but explain them.
    So does an error of the system that is nobody's bug: a full disk, a lack of rights or memory.
    Exit codes: 0 done, 1 a UserError, 2 a wrong option, 130 Ctrl-C, 143 SIGTERM.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    if verbs is None:
        app.command()(main)
    else:
        app.callback()(main)
        for name, function in verbs.items():
            app.command(name)(function)
    try:
        with _ended_by_signals():
            _run_to_the_last_byte(app, arguments)
    except UserError as error:
        _end_with(str(error))
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of a pipe has seen enough
            sys.exit(1)
        if error.errno not in _REMEDIES and not _is_of_tempfile(error):
            raise
        remedy = _REMEDIES.get(error.errno or 0, _MAKE_ROOM)
        where = f"{error.filename}: " if error.filename else ""
        _end_with(f"{where}{error.strerror}; {remedy}")
    except MemoryError:
        _end_with(
            "this machine has too little memory for that; end other programs, or give a smaller "
            "--resolution, --batch or --classes"
        )
    except SystemExit as end:
        if end.code == 130:  # typer's answer to Ctrl-C
            print("interrupted", file=sys.stderr)
        raise


def _run_to_the_last_byte(app: typer.Typer, arguments: list[str] | None) -> None:
    """Run it, and write what it printed, while an error of that can still be told.

    Else Python would write it at its end, and know no more than to ignore the error in many words.
    """
    try:
        app(arguments)
    finally:
        try:
            if sys.stdout:  # None where it was closed from the start
                sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's end
            raise


def _is_of_tempfile(error: OSError) -> bool:
    """Whether there is no folder for temporary files, of which Python says no more than that."""
    return error.errno == errno.ENOENT and error.filename is None


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP of a closed terminal, end the verb as Ctrl-C does.

    So it removes its temporary files, and its programs from a device. The second one ends it at
    once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler == signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_with(text: str) -> NoReturn:
    """Say why and end; what the text quotes is made harmless as in any UserError."""
    print(f"error: {UserError(text)}", file=sys.stderr)
    sys.exit(1)


def main() -> None:
    """The console script: `mnv2-tvm VERB ...` is `python -m mnv2_tvm.VERB ...`."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb not in VERBS:
        asked = verb in ("--help", "-h")
        usage = f"usage: mnv2-tvm VERB [OPTIONS]; verbs: {', '.join(VERBS)}"
        print(f"{usage}\nmnv2-tvm VERB --help explains one.", file=None if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    name = f"{verb}.__main__" if verb == "model" else verb
    sys.argv[:2] = [f"mnv2-tvm {verb}"]
    module = importlib.import_module(f"mnv2_tvm.{name}")
    run_verb(module.main, verbs=getattr(module, "VERBS", None))
