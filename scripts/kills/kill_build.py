"""Kill `build` with SIGKILL, over an earlier build with files of the user's beside it.

Some kills come at random moments of the whole run, the others inside the swap, each before another
of its steps, where a hook makes the build wait. After a kill the folder must load and compute what
the old or the new network computes, with the user's files as they were; after the next run it must
hold the new build and nothing else, and the folder for temporary files nothing.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from mnv2_tvm import cli, load
from mnv2_tvm.build import build
from mnv2_tvm.errors import UserError
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.numbers import TOLERANCE, relative_error
from mnv2_tvm.replace import JOURNAL, tree_files
from mnv2_tvm.target import Target

MINE = {"notes.txt": "mine", "lib/notes.txt": "mine too", ".hidden": "and mine"}
OLD, NEW = 1, 2  # seeds of the weights
SIZES = ("--width", "0.35", "--resolution", "32", "--classes", "10")
# A build that says so and waits before one of its steps with the journal there.
SLOW = """
import itertools, os, sys, time
from mnv2_tvm.build import main
from mnv2_tvm.cli import run_verb
journal, step, *words = sys.argv[1:]
steps = itertools.count()
def wait(event, arguments):
    if event in ("os.rename", "os.link") and os.path.exists(journal) and next(steps) == int(step):
        print(event, flush=True)
        time.sleep(60)
sys.addaudithook(wait)
run_verb(main, words)
"""
STEPS = 5  # in which two files are swapped, library and manifest, and the journal leaves


@dataclass(frozen=True)
class Place:
    """Where everything is, and the two networks."""

    folder: Path
    temporary: Path
    earlier: Path  # the old build, to be copied
    target: str

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(self.temporary)}

    @property
    def words(self) -> list[str]:
        return ["--target", self.target, *SIZES, "--seed", str(NEW), "-o", str(self.folder)]

    def reset(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.earlier, self.folder)
        for name, text in MINE.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text(text)


def kill_anywhere(place: Place, after_s: float) -> None:
    """Kill a build after some time."""
    command = [sys.executable, "-m", "mnv2_tvm.build", *place.words]
    with subprocess.Popen(command, env=place.environment, stdout=subprocess.DEVNULL) as process:
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)


def kill_in_swap(place: Place, step: int) -> None:
    """Kill a build inside the swap, right before one of its steps."""
    command = [sys.executable, "-c", SLOW, str(place.folder / JOURNAL), str(step), *place.words]
    with subprocess.Popen(command, env=place.environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)


def what_is_left(place: Place, networks: dict[int, SourceNetwork]) -> str:
    """`old` or `new`. Raises UserError where it is neither, or a file of the user's is not."""
    for name, text in MINE.items():
        if (place.folder / name).read_text() != text:
            raise UserError(f"{name} was changed")
    images = networks[OLD].images(seed=3)
    logits = load(place.folder)(images)
    for seed, name in ((OLD, "old"), (NEW, "new")):
        if relative_error(logits, networks[seed].reference(images)) < TOLERANCE:
            return name
    raise UserError(f"{place.folder} computes neither: {np.array2string(logits)}")


def leftovers(place: Place, wanted: dict[str, str]) -> list[str]:
    """What is there after the next run beyond the new build and the user's files."""
    found = tree_files(place.folder)
    strange = [name for name in found if found[name] != wanted.get(name)]
    missing = [f"no {name}" for name in wanted if name not in found]
    beside = [path.name for path in place.folder.parent.iterdir() if path != place.folder]
    return [*strange, *missing, *beside, *(path.name for path in place.temporary.iterdir())]


def kill_build(target: str, kills: int, in_swap: int, seed: int) -> dict[str, int]:
    """Counts of what the kills left. Raises UserError at the first that lost something."""
    draw, counts = random.Random(seed), Counter(kills=kills)
    machine = Target.load(target)
    architecture = Architecture(0.35, 32, classes=10)
    networks = {n: SourceNetwork.make(architecture, None, n) for n in (OLD, NEW)}
    with tempfile.TemporaryDirectory(prefix="mnv2-kills-") as name:
        root = Path(name)
        place = Place(root / "parent/out", root / "tmp", root / "earlier", machine.name)
        place.temporary.mkdir()
        build(machine, networks[OLD], place.earlier)
        place.reset()
        command = [sys.executable, "-m", "mnv2_tvm.build", *place.words]
        start = time.monotonic()
        run(command, place)
        whole_s, wanted = time.monotonic() - start, tree_files(place.folder)
        for number in range(kills):
            place.reset()
            if number < in_swap:
                kill_in_swap(place, number % STEPS)
            else:
                kill_anywhere(place, draw.uniform(0.3, 1) * whole_s)
            inside = (place.folder / JOURNAL).exists()
            counts["inside the swap"] += inside
            counts["with folders left"] += bool(leftovers(place, tree_files(place.earlier)))
            state = what_is_left(place, networks)
            counts[state] += 1
            run(command, place)
            if left := leftovers(place, wanted):
                raise UserError(f"kill {number}: {', '.join(left)} after the next run")
            print(f"kill {number}: {'inside' if inside else 'outside'}, {state}", file=sys.stderr)
    return dict(counts)


def run(command: list[str], place: Place) -> None:
    """Run a build to its end."""
    done = subprocess.run(
        command, env=place.environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"build failed: {done.stderr}")


def main(
    target: cli.Target = "host",
    kills: Annotated[int, typer.Option(min=1, help="Builds to kill.")] = 20,
    in_swap: Annotated[int, typer.Option(min=0, help="Of them inside the swap.")] = 6,
    seed: cli.Seed = 0,
) -> None:
    """Kill builds at many moments; exit with 1 where one lost or left something."""
    counts = kill_build(target, kills, min(in_swap, kills), seed)
    print(json.dumps(counts))
    if counts.get("inside the swap", 0) < min(in_swap, kills):
        raise UserError("too few kills were inside the swap")


if __name__ == "__main__":
    cli.run_verb(main)
