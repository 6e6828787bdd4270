"""Inputs and logits as .npy files."""

import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mnv2_tvm.errors import UserError, printable
from mnv2_tvm.files import write_whole
from mnv2_tvm.numbers import Floats
from mnv2_tvm.untrusted import open_file

_HEADER_BYTES = 10_000  # numpy's own limit for what it parses as Python


def read_input(path: Path, input_shape: tuple[int, ...]) -> Floats:
    """The array [m, y, x, 3] of an .npy file for a network that takes `input_shape`.

    float32 of another byte order, and of another order in memory, is converted. Raises UserError
    if the file is missing, damaged or pickled, or the array is of another type or shape, or not
    finite.
    """
    with open_file(path, f"input {path}") as stream:
        try:
            array = _read(path, stream)
        except UserError:
            raise
        except Exception as error:  # a damaged file raises whatever its next byte leads to
            raise _not_an_array(path, printable(error)) from error
    _check_input(path, array, input_shape)
    return np.ascontiguousarray(array, np.float32)


def _read(path: Path, stream: BinaryIO) -> np.ndarray:
    """The array, of whose bytes none is missing: a header may promise more than memory holds."""
    if stream.read(2) == b"PK":
        raise _not_an_array(path, "an archive of several arrays")
    stream.seek(0)
    version = np.lib.format.read_magic(stream)
    readers: dict[tuple[int, int], Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise _not_an_array(path, f"format {version[0]}.{version[1]}")
    shape, _, dtype = readers[version](stream, max_header_size=_HEADER_BYTES)
    there, wanted = path.stat().st_size - stream.tell(), dtype.itemsize
    for extent in shape:
        wanted *= extent
    if dtype.hasobject:
        raise _not_an_array(path, "it holds Python objects")
    if not 0 <= wanted <= there:
        raise _not_an_array(path, f"{there} bytes of the {wanted} that its header promises")
    stream.seek(0)
    array: np.ndarray = np.load(stream, allow_pickle=False)
    return array


def _check_input(path: Path, array: np.ndarray, input_shape: tuple[int, ...]) -> None:
    image = input_shape[1:]
    wanted = f"[n, {', '.join(map(str, image))}]"
    if array.dtype.newbyteorder("=") != np.float32:
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
    stream = io.BytesIO()
    np.save(stream, logits, allow_pickle=False)
    try:
        write_whole(path, stream.getvalue())
    except OSError as error:
        raise UserError(
            f"output {path} cannot be written ({error.strerror or error}); give a path "
            "in a folder that exists and can be written"
        ) from error


def _not_an_array(path: Path, reason: str) -> UserError:
    return UserError(
        f"input {path} is not a whole .npy file of numbers ({reason}); write it with "
        "numpy.save(path, array.astype(numpy.float32))"
    )
