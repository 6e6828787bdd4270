"""Model the memory traffic of a target's decisions: the bytes that cross its last cache in a run.

No board is needed: cachegrind runs the network on this host with the target's caches. It knows
no ARM code, so what runs is an x86-avx2 build with those decisions of the modelled target that
matter here: which blocks are fused, the rows of a strip, and the chunk. Register tiles and plain
layers are x86-avx2's defaults.

The model is LRU with 64-byte lines; the last cache has 16 ways and is the network's alone.
Counted are the lines that reads and writes of data fetch in the second run. Left out are
write-backs, which cachegrind does not model, prefetches, instructions, and page tables.
"""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Annotated, Any

import typer
from cachegrind import fetched_bytes
from rich.table import Table

from mnv2_tvm import cli
from mnv2_tvm.build import build
from mnv2_tvm.kernels import Schedule, default_schedule
from mnv2_tvm.kernels.inverted_residual import InvertedResidual
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.pipeline import network_blocks
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Cache, Target

MACHINE = "x86-avx2"  # valgrind knows no wider vectors
APART = "every layer apart"

Choice = Mapping[Layer, Schedule | None]


@dataclass(frozen=True)
class Traffic:
    """Bytes of one run, in all and by step; kernels that were inlined are one step."""

    floor: int  # weights and input, once
    steps: dict[str, float]

    @property
    def total(self) -> float:
        """Of all steps."""
        return sum(self.steps.values())


def traffic(source: SourceNetwork, cache: Cache, choice: Choice) -> Traffic:
    """Of a network whose blocks are done as `choice` says, on a machine with these caches."""
    machine = Target.load(MACHINE)
    decisions = Decisions(
        machine, {block: _here(block, wanted) for block, wanted in choice.items()}
    )
    with tempfile.TemporaryDirectory(prefix="mnv2-") as name:
        manifest = build(machine, source, Path(name) / "library", decisions=decisions)
        functions = fetched_bytes(Path(name) / "library", machine, cache)
    steps = Counter(str(layer["name"]) for layer in manifest.layers)
    labels = {step.replace("-", "_"): f"{count} x {step}" for step, count in steps.items()}
    inlined = ", ".join(label for function, label in labels.items() if function not in functions)
    measured: Counter[str] = Counter()
    for function, size in functions.items():
        measured[labels.get(function, inlined if function == "network" else "else")] += size
    floor = manifest.weight_bytes + 4 * prod(manifest.input_shape)
    return Traffic(floor, dict(measured))


def _here(block: Layer, wanted: Schedule | None) -> Schedule | None:
    """The first point of this machine's space with those rows and the same or nearest chunk."""
    if wanted is None:
        return None
    assert isinstance(wanted, InvertedResidual)
    space = InvertedResidual.space(block, Target.load(MACHINE))
    return min(space, key=lambda p: (p.rows != wanted.rows, abs(p.chunk - wanted.chunk)))


def choices(blocks: list[Layer], target: Target, by_height: bool) -> dict[str, Choice]:
    """What to compare: the target's decisions, every layer apart, and between them by height."""
    decisions = Decisions.load(target, threads=1)
    fused = {block: default_schedule(block, target) for block in blocks}
    compared: dict[str, Choice] = {
        f"decisions of {target.name}": {block: decisions(block) for block in blocks},
        APART: dict.fromkeys(blocks),
    }
    for height in sorted({block.height for block in blocks}, reverse=True) if by_height else ():
        compared[f"fused from {height} input rows"] = {
            block: schedule if block.height >= height else None for block, schedule in fused.items()
        }
    return compared


def compare(
    source: SourceNetwork, cache: Cache, compared: Mapping[str, Choice]
) -> dict[str, Traffic]:
    """The traffic of each choice; equal ones are measured once."""
    measured: dict[str, Traffic] = {}
    for name, choice in compared.items():
        print(name, file=sys.stderr)
        equal = (measured[other] for other in measured if compared[other] == choice)
        measured[name] = next(equal, None) or traffic(source, cache, choice)
    return measured


def _totals(title: str, floor: int, measured: Mapping[str, Traffic]) -> Table:
    table = Table("decisions", "MB", "of the floor", title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = {"floor: weights and input once": floor} | {n: t.total for n, t in measured.items()}
    for name, size in rows.items():
        table.add_row(name, f"{size / 1e6:.2f}", f"{size / floor:.2f}")
    return table


def _steps(name: str, measured: Traffic) -> Table:
    table = Table("step", "MB", title=name, title_justify="left")
    table.columns[0].overflow = "fold"
    table.columns[1].justify = "right"
    for step, size in sorted(measured.steps.items(), key=lambda item: -item[1]):
        if size:
            table.add_row(step, f"{size / 1e6:.3f}")
    return table


def _write(path: Path, facts: dict[str, Any], measured: Mapping[str, Traffic]) -> None:
    results = {name: {"bytes": t.total, "steps": t.steps} for name, t in measured.items()}
    path.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n", encoding="utf-8")


def main(
    target: cli.Target = "rasp4",
    width: cli.Width = 1.0,
    resolution: cli.Resolution = 224,
    l2_bytes: Annotated[
        int | None, typer.Option(min=4096, help="Size of the last cache; default: the target's.")
    ] = None,
    by_height: Annotated[
        bool, typer.Option("--by-height", help="Also blocks fused from each height up.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--json", help="Write the bytes here.")] = None,
) -> None:
    """Model the bytes that cross a target's last cache in one run of the network."""
    modelled = Target.load(target)
    cache = replace(modelled.cache, l2_bytes=l2_bytes or modelled.cache.l2_bytes)
    modelled = replace(modelled, cache=cache)
    source = SourceNetwork.make(Architecture(width, resolution), None, 0)
    blocks = network_blocks(source.relax())
    measured = compare(source, cache, choices(blocks, modelled, by_height))
    first = next(iter(measured))
    floor = measured[first].floor
    facts = {"network": f"{width}-{resolution}", "target": target, "floor": floor}
    facts |= {"l1_bytes": cache.l1_bytes, "l2_bytes": cache.l2_bytes}
    title = f"MobileNetV2-{width}-{resolution} fp32, last cache of {cache.l2_bytes // 1024} KiB"
    cli.console().print(_totals(title, floor, measured))
    cli.console().print(_steps(first, measured[first]))
    if output is not None:
        _write(output, facts, measured)


if __name__ == "__main__":
    cli.run_verb(main)
