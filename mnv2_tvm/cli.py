"""What all verbs share: one console script, errors without a traceback, and common options.

Each verb is a module `mnv2_tvm.VERB` with a plain function of the same name first and
`main` last; `main` has the command line's types and `python -m mnv2_tvm.VERB` runs it.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console

from mnv2_tvm.errors import UserError
from mnv2_tvm.untrusted import printable

VERBS = ("tune", "build", "bench", "run", "show", "doctor", "model", "device")

Target = Annotated[str, typer.Option(help="A file in targets/, without .toml.")]
Width = Annotated[float, typer.Option(help="Width multiplier, 0.35 to 1.4.")]
Resolution = Annotated[int, typer.Option(help="Height and width of the image, 32 or more.")]
Classes = Annotated[int, typer.Option(help="Outputs of the classifier.")]
Threads = Annotated[int, typer.Option(min=1, max=64, help="Threads of a run.")]
PlainServer = Annotated[
    bool,
    typer.Option(
        "--plain-server", help="Accept boards with TVM's own RPC server; versions are not compared."
    ),
]
Via = Annotated[
    str | None,
    typer.Option(help="ssh:HOST, adb or adb:SERIAL: on a device with nothing installed on it."),
]
Runner = Annotated[
    str | None, typer.Option(help="With --via: before the program there, e.g. 'taskset f0'.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of random weights and inputs.")]


def console() -> Console:
    """Where a verb prints its tables: as wide as the terminal, and unwrapped in a file or pipe."""
    return plain_console() if sys.stdout.isatty() else plain_console(width=240)


def plain_console(**options: Any) -> Console:
    """A console that prints text as it is: brackets and colons of a path are no markup."""
    return Console(markup=False, emoji=False, highlight=False, **options)


def cpu_list(text: str) -> list[int]:
    """The numbers in `4,5,6`. Raises UserError for anything else."""
    cpus = [int(cpu) if cpu.isdecimal() else -1 for cpu in text.split(",")]
    if -1 in cpus or len(set(cpus)) < len(cpus):
        raise UserError(f"--cpus {text}: give numbers of CPUs, each once, such as 0,1")
    return cpus


def run_verb(
    main: Callable[..., Any],
    arguments: list[str] | None = None,
    verbs: Mapping[str, Callable[..., Any]] | None = None,
) -> None:
    """Run one verb's `main` on the command line; a UserError ends it in one sentence.

    With `verbs` of its own, such as `device list`, `main` does nothing but explain them.
    Exit codes: 0 done, 1 a UserError, 2 a wrong option, 130 Ctrl-C.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    if verbs is None:
        app.command()(main)
    else:
        app.callback()(main)
        for name, function in verbs.items():
            app.command(name)(function)
    try:
        app(arguments)
    except UserError as error:
        print(f"error: {_harmless(str(error))}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code == 130:  # typer's answer to Ctrl-C
            print("interrupted", file=sys.stderr)
        raise


def _harmless(text: str) -> str:
    """A message that may quote a board or a file: its lines, without what a terminal obeys."""
    lines = text.encode("utf-8", errors="replace").decode("utf-8").split("\n")
    return "\n".join(printable(line, limit=4000) for line in lines)


def main() -> None:
    """The console script: `mnv2-tvm VERB ...` is `python -m mnv2_tvm.VERB ...`."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb not in VERBS:
        asked = verb in ("--help", "-h")
        usage = f"usage: mnv2-tvm VERB [OPTIONS]; verbs: {', '.join(VERBS)}"
        print(f"{usage}\nmnv2-tvm VERB --help explains one.", file=None if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    name = f"{verb}.__main__" if verb in ("model", "device") else verb
    sys.argv[:2] = [f"mnv2-tvm {verb}"]
    module = importlib.import_module(f"mnv2_tvm.{name}")
    run_verb(module.main, verbs=getattr(module, "VERBS", None))
