"""Feed mutated inputs to every parser of what users, files, boards and trackers give.

The same seed makes the same inputs. Right is a value or a UserError whose text is short and free
of control characters; anything else is a fault: another exception, more than 5 s, more than 256 MB,
a process that dies, files left behind. Exit code 1 if there is one.
"""

import json
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import file_parsers
import int8_parsers
import rpc_parsers
import text_parsers
import typer
from rich import box
from rich.table import Table
from sandbox import Outcome, Parser, judge, make_input, run

from mnv2_tvm.build import build
from mnv2_tvm.cli import plain_console, run_verb
from mnv2_tvm.errors import UserError
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.target import Target
from mnv2_tvm.untrusted import printable

_MANIFEST = "manifest.json"


def _chosen(only: list[str] | None, built: Path | None, scratch: Path) -> list[Parser]:
    """The parsers with a name that contains one of `only`, by default all."""
    groups = (file_parsers, int8_parsers, text_parsers, rpc_parsers)
    parsers = [parser for group in groups for parser in group.PARSERS]
    wanted = only or [""]
    chosen = [p for p in parsers if any(word in p.name for word in wanted)]
    if any(word in _MANIFEST for word in wanted):
        if built is None:
            built = scratch / "built"
            build(
                Target.load("host"), SourceNetwork.make(Architecture(0.35, 32, 2), None, 0), built
            )
        chosen.append(file_parsers.manifest_parser(built))
    if not chosen:
        raise UserError(f"no parser is called so; there are {', '.join(p.name for p in parsers)}")
    return chosen


def _table(outcomes: list[Outcome], seconds: list[float]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("parser", "inputs", "refused", "worst ms", "peak MB", "s", "faults"):
        table.add_column(heading, justify="left" if heading == "parser" else "right")
    for outcome, took in zip(outcomes, seconds, strict=True):
        table.add_row(
            outcome.name,
            str(outcome.inputs),
            f"{outcome.refused / max(1, outcome.inputs):.0%}",
            f"{outcome.worst_ms:.0f}",
            f"{outcome.peak_bytes / 2**20:.0f}",
            f"{took:.0f}",
            str(sum(fault.count for fault in outcome.faults.values())),
        )
    return table


def _faults(outcome: Outcome, seed: int) -> list[str]:
    lines = []
    for fault in outcome.faults.values():
        again = f"scripts/fuzz --seed {seed} --only '{outcome.name}' --index {fault.index}"
        lines.append(f"{outcome.name}: {fault.count} x {fault.what}, {fault.where}")
        lines.append(f"    {fault.value}")
        lines += [f"    {again}"] * (fault.index >= 0)
    return lines


def _one(parser: Parser, seed: int, index: int) -> None:
    """Run one input in this process, with whatever traceback it has."""
    value = make_input(parser, seed, index)
    print(printable(repr(value), 2000))
    with tempfile.TemporaryDirectory() as folder:
        parse = parser.open(Path(folder))
        try:
            print("taken:", printable(repr(parse(value)), 2000))
        except Exception:
            traceback.print_exc()
            print(judge(parse, value))


def main(
    inputs: Annotated[int, typer.Option(min=1, help="Inputs for each parser.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of the mutations.")] = 1,
    only: Annotated[
        list[str] | None, typer.Option(help="Part of a parser's name; may be repeated.")
    ] = None,
    index: Annotated[
        int | None, typer.Option(min=0, help="With --only: this input alone, in full.")
    ] = None,
    built: Annotated[
        Path | None, typer.Option(help="A folder that build wrote; default: one is built.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Save the figures here.")] = None,
) -> None:
    """Run the parsers one after the other and print what came of it."""
    with tempfile.TemporaryDirectory() as scratch:
        parsers = _chosen(only, built, Path(scratch))
        if index is not None:
            for parser in parsers:
                _one(parser, seed, index)
            return
        outcomes, seconds = [], []
        for parser in parsers:
            start = time.monotonic()
            outcomes.append(run(parser, seed, range(inputs)))
            seconds.append(time.monotonic() - start)
            for line in _faults(outcomes[-1], seed):
                print(line, flush=True)
    plain_console(width=120).print(_table(outcomes, seconds))
    if json_file:
        rows = [asdict(o) | {"faults": [asdict(f) for f in o.faults.values()]} for o in outcomes]
        report = {"inputs": inputs, "seed": seed, "parsers": rows}
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if any(outcome.faults for outcome in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    run_verb(main)
