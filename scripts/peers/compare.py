"""The command line: compare this project with its peers, for one network or for a grid of them.

Same weights, same input, same threads; every runtime in a process of its own, in alternating
rounds. A peer that cannot be installed or converted here is a row that says why.
"""

import json
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from measure import Settings, compare, prepare
from plot import plot
from roofline import measure_layers, plot_roofline
from runners import ONE_THREAD, OURS, PEERS
from table import replace, short_table, sweep_table, table

from mnv2_tvm import cli
from mnv2_tvm.errors import UserError
from mnv2_tvm.target import Target

SCRIPTS = Path(__file__).resolve().parent.parent
RESULTS = SCRIPTS / "results"
SWEEP = RESULTS / "sweep"
BENCHMARKS = SCRIPTS.parent / "docs/benchmarks.md"
README = SCRIPTS.parent / "README.md"
LITERT_PYTHON = SCRIPTS.parent / ".venv/litert/bin/python"


def save_one(result: dict[str, Any], settings: Settings) -> None:
    """The JSON and its table; for the network of the README that table and the pictures too."""
    _write(RESULTS / f"peers-{_name(result)}.json", result)
    replace(BENCHMARKS, f"peers {result['network']} {_marker(settings)}", table(result))
    if (result["network"], settings.threads, settings.avx2) == ("1.0-224", 1, False):
        replace(README, "peers short", short_table(result))
        plot(result, RESULTS / "peers.svg")
        layers = measure_layers(settings.target, 1.0, 224, settings.threads, settings.seed)
        _write(RESULTS / f"layers-{_name(result)}.json", layers)
        plot_roofline(layers, RESULTS / "roofline.svg")


def sweep(
    settings: Settings, widths: list[float], resolutions: list[int], save: bool
) -> list[dict[str, Any]]:
    """A result for each point.

    With `save` each is on the disk before the next point starts, and the table of the page has the
    points that earlier sweeps saved as well.
    """
    results = []
    for width in widths:
        for resolution in resolutions:
            print(f"== {width}-{resolution}", file=sys.stderr)
            result = compare(settings, width, resolution)
            results.append(result)
            if save:
                _write(SWEEP / f"peers-{_name(result)}.json", result)
                text = sweep_table(_saved_like(result))
                replace(BENCHMARKS, f"peers sweep {_marker(settings)}", text)
    return results


def _fill(settings: Settings, widths: list[float], resolutions: list[int]) -> None:
    """Convert all that `settings.models` lacks."""
    if settings.models is None:
        raise UserError("--only-convert fills the folder of --models: give one")
    for width, resolution in product(widths, resolutions):
        print(f"== {width}-{resolution}", file=sys.stderr)
        for name, reason in prepare(settings, width, resolution).items():
            print(f"{name}: {reason}", file=sys.stderr)


def _saved_like(result: dict[str, Any]) -> list[dict[str, Any]]:
    """All saved points of this machine, target and number of threads."""
    keys = ("cpu", "target", "threads", "peers_held_to_avx2")
    saved = [json.loads(path.read_text(encoding="utf-8")) for path in SWEEP.glob("*.json")]
    return [other for other in saved if all(other[key] == result[key] for key in keys)]


def _numbers(text: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(number) for number in text.split(",")]
    except ValueError as error:
        raise UserError(f"'{text}' is not a list of numbers with commas between them") from error


def _name(result: dict[str, Any]) -> str:
    return f"{result['network']}-{result['target']}-{result['threads']}t"


def _marker(settings: Settings) -> str:
    return f"{settings.threads}{' avx2' if settings.avx2 else ''}"


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main(
    target: cli.Target = "host",
    width: cli.Width = 1.0,
    resolution: cli.Resolution = 224,
    threads: cli.Threads = 1,
    rounds: Annotated[int, typer.Option(min=3, help="Each peer has a turn in each.")] = 25,
    runs: Annotated[int, typer.Option(min=1, help="Runs of one turn; their median counts.")] = 20,
    seed: cli.Seed = 0,
    peer: Annotated[
        list[str] | None, typer.Option(help=f"Only this one; repeat. {'; '.join(PEERS)}")
    ] = None,
    avx2: Annotated[
        bool, typer.Option("--avx2", help="Ours for x86-avx2, the others held to AVX2 as far.")
    ] = False,
    in_sweep: Annotated[
        bool, typer.Option("--sweep", help="Every width at every resolution of the two lists.")
    ] = False,
    widths: Annotated[str, typer.Option(help="Of --sweep.")] = "0.35,0.5,0.75,1.0,1.4",
    resolutions: Annotated[str, typer.Option(help="Of --sweep.")] = "96,128,160,192,224",
    litert_python: Annotated[
        Path, typer.Option(help="A venv's Python with LiteRT's converter.", show_default=False)
    ] = LITERT_PYTHON,
    models: Annotated[
        Path | None, typer.Option(help="Keep the converted models here, for the next time.")
    ] = None,
    only_convert: Annotated[
        bool, typer.Option("--only-convert", help="Fill --models and measure nothing.")
    ] = False,
    save: Annotated[
        bool, typer.Option(help="Write scripts/results/ and the tables of the documentation.")
    ] = False,
) -> None:
    """Compare with other runtimes on this machine."""
    superfluous = {OURS, ONE_THREAD} if threads == 1 else {OURS}
    names = [name for name in (peer or PEERS) if name not in superfluous]
    if unknown := [name for name in names if name not in PEERS]:
        raise UserError(f"no peer is called {unknown[0]!r}; there are: {'; '.join(PEERS)}")
    machine = Target.load("x86-avx2" if avx2 else target)
    settings = Settings(machine, threads, rounds, runs, seed, avx2, names, litert_python, models)
    points = (
        (_numbers(widths, float), _numbers(resolutions, int))
        if in_sweep
        else ([width], [resolution])
    )
    if only_convert:
        _fill(settings, *points)
        return
    if in_sweep:
        print(sweep_table(sweep(settings, *points, save)))
        return
    result = compare(settings, width, resolution)
    print(table(result))
    if save:
        save_one(result, settings)


if __name__ == "__main__":
    cli.run_verb(main)
