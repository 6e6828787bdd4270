"""`python -m mnv2_tvm.run`: what a built network says to image files or to an array."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import typer

from mnv2_tvm.cli import PlainServer, run_verb
from mnv2_tvm.deploy.loader import Floats, load
from mnv2_tvm.deploy.loader import Network as LocalNetwork
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.device.plain_server import NOTHING_TOLD, WARNING, check_option
from mnv2_tvm.device.remote_network import RemoteNetwork
from mnv2_tvm.device.session import Address, Session
from mnv2_tvm.device.tracker import parse_address
from mnv2_tvm.errors import UserError
from mnv2_tvm.host import thread_note
from mnv2_tvm.images import load_image
from mnv2_tvm.ranking import rank


class Network(Protocol):
    """What `mnv2_tvm.load` returns, as far as this verb needs it."""

    input_shape: tuple[int, ...]  # [n, y, x, 3]
    output_shape: tuple[int, ...]  # [n, classes]

    def __call__(self, images: Floats) -> Floats:
        """Logits [m, classes] of images [m, y, x, 3], for any m."""


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


def read_labels(path: Path, classes: int) -> list[str]:
    """The names of the classes in their order, one a line. Raises UserError for another count."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _not_opened("labels", path, error) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"labels {path} are not UTF-8 text ({error.reason}); convert them"
        ) from error
    labels = text.removesuffix("\n").split("\n") if text else []
    if len(labels) != classes:
        raise UserError(
            f"labels {path} have {len(labels)} lines and the network has {classes} classes; "
            "give one name a line, in the order of the classes"
        )
    return labels


def read_input(path: Path, input_shape: tuple[int, ...]) -> Floats:
    """The array [m, y, x, 3] of an .npy file for a network that takes `input_shape`.

    Raises UserError if the file is missing, damaged or pickled, or the array is of another type
    or shape, or not finite.
    """
    try:
        with path.open("rb") as stream:  # numpy leaves its own open on a damaged archive
            array = np.load(stream, allow_pickle=False)
    except Exception as error:  # a damaged file raises whatever its next byte leads to
        if isinstance(error, OSError) and error.errno is not None:  # from the file system
            raise _not_opened("input", path, error) from error
        raise _not_an_array(path, str(error)) from error
    if not isinstance(array, np.ndarray):
        raise _not_an_array(path, "an archive of several arrays")
    _check_input(path, array, input_shape)
    return np.ascontiguousarray(array)


def _check_input(path: Path, array: np.ndarray, input_shape: tuple[int, ...]) -> None:
    image = input_shape[1:]
    wanted = f"[n, {', '.join(map(str, image))}]"
    if array.dtype != np.float32:
        raise UserError(
            f"input {path} is of type {array.dtype}; the network takes float32 {wanted}: save it "
            "as array.astype(numpy.float32)"
        )
    if array.ndim != 4 or array.shape[1:] != image:
        channels_first = array.ndim == 4 and array.shape[1:] == (image[2], *image[:2])
        remedy = "array.transpose(0, 2, 3, 1)" if channels_first else "an array of that shape"
        raise UserError(
            f"input {path} has the shape {list(array.shape)}; the network takes {wanted}: "
            f"save {remedy}"
        )
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        raise UserError(
            f"input {path} has {len(wrong)} values that are not finite, the first at "
            f"{wrong[0].tolist()}; mend what wrote it"
        )


def write_output(path: Path, logits: Floats) -> None:
    """Write an .npy file, whole or not at all. Raises UserError where it cannot be written."""
    partial = path.parent / f".{path.name}.partial"
    try:
        with partial.open("wb") as stream:
            np.save(stream, logits, allow_pickle=False)
        partial.replace(path)
    except OSError as error:
        raise UserError(
            f"output {path} cannot be written ({error.strerror or error}); give a path "
            "in a folder that exists and can be written"
        ) from error
    finally:
        with suppress(OSError):  # renamed, or never made
            partial.unlink()


def _not_opened(kind: str, path: Path, error: OSError) -> UserError:
    return UserError(
        f"{kind} {path} cannot be opened ({error.strerror}); check the path and the permissions "
        "of the file"
    )


def _not_an_array(path: Path, reason: str) -> UserError:
    return UserError(
        f"input {path} is not a whole .npy file of numbers ({reason}); write it with "
        "numpy.save(path, array.astype(numpy.float32))"
    )


def _check_options(
    image: list[Path] | None,
    labels: Path | None,
    input: Path | None,
    output: Path | None,
    check: bool,
    weights: Path | None,
) -> None:
    if bool(image) == bool(input):
        raise UserError("give either --image FILE or --input X.npy with --output Y.npy")
    if bool(input) != bool(output):
        raise UserError("--input X.npy and --output Y.npy go together; give both")
    if input and labels:
        raise UserError("--labels goes with --image; an --output has logits alone")
    if input and check:
        raise UserError("--check goes with --image")
    if weights and not check:
        raise UserError("--weights goes with --check; the library has its own weights inside")


@contextmanager
def _open(
    folder: Path, threads: int | None, tracker: str | None, plain_server: bool
) -> Iterator[LocalNetwork | RemoteNetwork]:
    """The library in `folder`, loaded here or on a board of the tracker, which is given back."""
    check_option(tracker, plain_server)
    if tracker is None:
        network = load(folder, threads)
        if note := thread_note(network.threads):
            typer.echo(f"note: {note}", err=True)
        yield network
        return
    key = Manifest.read(folder).target
    with closing(Session(Address(parse_address(tracker), key, plain_server))) as session:
        if session.info is NOTHING_TOLD:
            typer.echo(f"warning: {WARNING}", err=True)
        yield RemoteNetwork(session, folder, threads)


def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What mnv2_tvm.build wrote.")],
    image: Annotated[
        list[Path] | None, typer.Option(help="An image file; may be repeated.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Names of the classes, one a line.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to print of each image.")] = 5,
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
        bool, typer.Option("--check", help="Compare logits and top classes with torch's.")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option(help="For --check: the weights that the library was built with.")
    ] = None,
    tracker: Annotated[
        str | None,
        typer.Option(help="HOST:PORT: on a board with the name of the library's target."),
    ] = None,
    plain_server: PlainServer = False,
) -> None:
    """Run a built network: print the top classes of images, or map an array to its logits."""
    _check_options(image, labels, input, output, check, weights)
    with _open(folder, threads, tracker, plain_server) as network:
        if input and output:
            write_output(output, run(network, read_input(input, network.input_shape), str(input)))
            return
        classes, resolution = network.output_shape[1], network.input_shape[1]
        names = read_labels(labels, classes) if labels else None
        paths = image or []
        images = [load_image(path, resolution) for path in paths]  # all are read before any is run
        agree = _check_by(folder, weights, top) if check else None
        if note := _note(network.manifest.weights):
            typer.echo(note)
        for path, array in zip(paths, images, strict=True):
            logits = run(network, array, str(path))
            typer.echo(path)
            for place, ranked in enumerate(rank(logits[0], top, names), 1):
                name = f"  {ranked.label}" if names else ""
                typer.echo(f"{place:3}  class {ranked.index:<4}  {ranked.probability:6.4f}{name}")
            if agree:
                typer.echo(agree(logits, array, str(path)))


def _note(weights: str) -> str:
    """What the reader of the classes must know of the weights; empty for those of a file."""
    if not weights.startswith("random, seed "):
        return ""
    return f"note: the weights are random ones ({weights}), so the classes mean nothing"


def _check_by(folder: Path, weights: Path | None, top: int) -> Callable[[Floats, Floats, str], str]:
    """A function of (logits, image, its path) that says how torch agrees, or raises UserError."""
    from mnv2_tvm import check  # imports torch, which takes seconds

    reference = check.reference_network(Manifest.read(folder), weights)
    return lambda logits, image, path: str(check.check(logits, image, reference, top, path))


if __name__ == "__main__":
    run_verb(main)
