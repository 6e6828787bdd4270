"""`python -m mnv2_tvm.run`: what a built network says to image files or to an array."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.progress import track

from mnv2_tvm.cli import On, Runner, State, Tracker, plain_console, run_verb, tell, ways
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.devices.open import check_ways, open_device
from mnv2_tvm.errors import UserError, printable
from mnv2_tvm.host import crowd_warning
from mnv2_tvm.image_files import STDIN, Found, find_images, read_stdin
from mnv2_tvm.images import load_image
from mnv2_tvm.labels import read_labels
from mnv2_tvm.measure.device import Network
from mnv2_tvm.npy_files import read_input, write_output
from mnv2_tvm.numbers import Floats
from mnv2_tvm.ranking import rank

if TYPE_CHECKING:  # TVM comes with it, which running a library does not need
    from mnv2_tvm.target import Target

_BAR_FROM = 10  # images


def run(network: Network, images: Floats, source: str) -> Floats:
    """Logits [m, classes] of normalised images [m, y, x, 3] that come from `source`.

    Raises UserError if a logit is not finite: then the weights are not either.
    """
    logits = network(images)
    if not np.isfinite(logits).all():
        raise UserError(
            f"the network's output for {source} is not finite; check the weights and build it "
            "again with python -m mnv2_tvm.build --weights FILE"
        )
    return logits


def _check_options(
    images: list[str],
    labels: Path | None,
    input: Path | None,
    output: Path | None,
    check: bool,
    weights: Path | None,
    state: str | None,
    json_lines: bool,
) -> None:
    if bool(images) == bool(input):
        raise UserError("give either --image FILE or --input X.npy with --output Y.npy")
    if bool(input) != bool(output):
        raise UserError("--input X.npy and --output Y.npy go together; give both")
    if input and (labels or json_lines):
        raise UserError("--labels and --json go with --image; an --output has logits alone")
    if input and check:
        raise UserError("--check goes with --image")
    if (weights or state) and not check:
        raise UserError("--weights goes with --check; the library has its own weights inside")


@contextmanager
def _open(
    folder: Path, threads: int | None, ways: Sequence[str], runner: str | None
) -> Iterator[Network]:
    """The library in `folder`, ready to run on a device, which is given back."""
    if len(ways) > 1:
        raise UserError("a library runs on one device: give --on once")
    check_ways(ways, runner, named=True)

    def target() -> "Target":
        from mnv2_tvm.target import Target  # TVM with it

        return Target.load(key)

    key = Manifest.read(folder).target
    with (
        open_device(ways[0], key, target, runner=runner) as device,
        device.open(folder, threads) as network,
    ):
        for warning in crowd_warning(network.threads, network.told["cores"]):
            typer.echo(f"warning: {warning}", err=True)
        yield network


@dataclass(frozen=True)
class _Report:
    """Prints what a network says of images, one after another, and goes on after a bad one."""

    network: Network
    names: list[str] | None
    top: int
    shorter: int | None
    json_lines: bool
    agree: Callable[[Floats, Floats, str], str] | None

    def images(self, paths: Sequence[str]) -> int:
        """How many could not be classified."""
        failed = 0
        for path in _with_bar(paths):
            try:
                self._image(path)
            except UserError as error:
                failed += 1
                typer.echo(f"error: {error}", err=True)
                if self.json_lines:
                    typer.echo(json.dumps({"image": path, "error": str(error)}))
        return failed

    def _image(self, path: str) -> None:
        data = read_stdin() if path == STDIN else None
        resolution = self.network.input_shape[1]
        image = load_image(Path(path), resolution, shorter=self.shorter, data=data)
        logits = run(self.network, image, path)
        ranked = rank(logits[0], self.top, self.names)
        said = self.agree(logits, image, path) if self.agree else None
        if self.json_lines:
            classes = [
                {"class": one.index, "probability": round(one.probability, 6)}
                | ({"label": one.label} if self.names else {})
                for one in ranked
            ]
            row = {"image": path, "top": classes} | ({"check": said} if said else {})
            typer.echo(json.dumps(row, ensure_ascii=False))
            return
        typer.echo(printable(path, limit=4096))
        for place, one in enumerate(ranked, 1):
            name = f"  {one.label}" if self.names else ""
            typer.echo(f"{place:3}  class {one.index:<4}  {one.probability:6.4f}{name}")
        if said:
            typer.echo(said)


def _with_bar(paths: Sequence[str]) -> Iterable[str]:
    """The paths, with a progress bar where that does not stand among the results."""
    if len(paths) < _BAR_FROM or sys.stdout.isatty() or not sys.stderr.isatty():
        return paths
    return track(paths, "classifying", console=plain_console(stderr=True), transient=True)


def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What mnv2_tvm.build wrote.")],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE]...", help="As --image.")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(help="An image file, a folder of them, a pattern, or - for standard input."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Names of the classes: one a line, or a JSON list.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to print of each image.")] = 5,
    resize: Annotated[
        int | None,
        typer.Option(min=1, help="Shorter side before the crop; default: resolution x 256 / 224."),
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line for each image.")
    ] = False,
    input: Annotated[
        Path | None, typer.Option(help="Normalised images: an .npy file, float32 NHWC.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The .npy file of their logits to write.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the run; default: as built.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with a float64 reference.")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option(help="For --check: the weights that the library was built with.")
    ] = None,
    state: State = None,
    on: On = None,
    runner: Runner = None,
    tracker: Tracker = None,
) -> None:
    """Run a built network: print the top classes of images, or map an array to its logits."""
    words = [*(image or []), *(more or [])]
    _check_options(words, labels, input, output, check, weights, state, json_lines)
    found = find_images(words)
    with _open(folder, threads, ways(on, tracker, None), runner) as network:
        if input and output:
            write_output(output, run(network, read_input(input, network.input_shape), str(input)))
            return
        classes = network.output_shape[-1]
        names = read_labels(labels, classes) if labels else None
        agree = _check_by(folder, weights, state, top) if check else None
        for note in _notes(network.manifest.weights, classes, found):
            typer.echo(note, err=json_lines)
        failed = _Report(network, names, top, resize, json_lines, agree).images(found.paths)
    if failed:
        if len(found.paths) > 1:
            typer.echo(f"{failed} of {len(found.paths)} images failed", err=True)
        raise typer.Exit(1)


def _notes(weights: str, classes: int, found: Found) -> Iterator[str]:
    """What the reader of the classes must know."""
    if weights.startswith("random, seed "):
        yield f"note: the weights are random ones ({weights}), so the classes mean nothing"
    if classes == 1:
        yield "note: the network has one class; its probability is the sigmoid of the output"
    if found.others:
        yield f"note: {found.others} files in the folders are no images, by their names"


def _check_by(
    folder: Path, weights: Path | None, state: str | None, top: int
) -> Callable[[Floats, Floats, str], str]:
    """A function of (logits, image, its path): how the reference agrees, or UserError."""
    from mnv2_tvm.measure import check
    from mnv2_tvm.model.source import SourceNetwork

    reference = SourceNetwork.of_library(Manifest.read(folder), weights, state)
    tell(reference.notes)
    return lambda logits, image, path: str(check.check(logits, image, reference, top, path))


if __name__ == "__main__":
    run_verb(main)
