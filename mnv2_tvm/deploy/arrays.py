"""The arrays that a network takes and gives: converted or refused, never read as they lie."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.errors import UserError, printable
from mnv2_tvm.numbers import Floats

_NORMALISE = "normalise them: (pixels / 255 - mean) / deviation, as mnv2_tvm.images does"


def in_batches(run: Callable[[Floats], Floats], images: Any, manifest: Manifest) -> Floats:
    """Logits [m, classes] of images [m, y, x, 3] from runs of the size the library was built for.

    Raises UserError for what is no array of floats, and for another shape.
    """
    batch, *shape = manifest.input_shape
    floats = as_floats(images, tuple(shape))
    outputs = np.empty((len(floats), *manifest.output_shape[1:]), np.float32)
    for start in range(0, len(floats), batch):
        part = floats[start : start + batch]
        used = len(part)
        if used < batch:
            part = np.concatenate([part, np.zeros((batch - used, *shape), np.float32)])
        outputs[start : start + used] = run(part)[:used]
    return outputs


def as_floats(images: Any, shape: tuple[int, ...]) -> Floats:
    """Images [m, *shape] as contiguous float32 of this machine's byte order, a copy if need be.

    Raises UserError for anything but floats of that shape.
    """
    wanted = f"the network takes float32 [m, {', '.join(map(str, shape))}]"
    try:
        array = np.asarray(images)
    except Exception as error:  # whatever an object does that is to become an array
        kind = type(images).__name__
        raise UserError(
            f"the input, a {kind}, is no array ({printable(error)}); {wanted}"
        ) from error
    if array.dtype.kind in "iu":
        raise UserError(f"the input is {array.dtype}; {wanted}: {_NORMALISE}")
    if array.dtype.kind != "f":
        kind = type(images).__name__ if array.dtype.kind == "O" else str(array.dtype)
        raise UserError(f"the input is {kind}; {wanted}")
    if isinstance(images, np.ma.MaskedArray) and np.ma.is_masked(images):
        raise UserError(f"the input has masked values; {wanted}")
    if array.shape[1:] != shape or array.ndim != len(shape) + 1:
        raise UserError(f"the input has shape {list(array.shape)}; {wanted}{_hint(array, shape)}")
    try:
        with np.errstate(over="raise"):
            return np.require(array, np.float32, ["C_CONTIGUOUS", "ALIGNED"])
    except FloatingPointError as error:
        raise UserError(f"the input has numbers that float32 cannot hold; {wanted}") from error


def _hint(array: np.ndarray, shape: tuple[int, ...]) -> str:
    """What the caller may have meant by another shape."""
    if array.shape == shape:
        return "; for one image, give image[None]"
    if array.shape[1:] == (shape[-1], *shape[:-1]):
        return "; channels come last: images.transpose(0, 2, 3, 1)"
    return ""


def check_memory(name: str, array: Any, shape: tuple[int, ...], *, written: bool = False) -> None:
    """Raise UserError unless `array` can be handed to C as it lies: contiguous float32."""
    name = f"the {name}"
    if not isinstance(array, np.ndarray):
        raise UserError(f"{name} is a {type(array).__name__}; it must be a numpy array")
    if array.dtype != np.float32:  # another byte order is unequal too
        raise UserError(f"{name} is {array.dtype}; it must be float32")
    if array.shape != shape:
        raise UserError(f"{name} has shape {list(array.shape)}; it must be {list(shape)}")
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned):
        raise UserError(f"{name} is not contiguous; give numpy.ascontiguousarray of it")
    if written and not flags.writeable:
        raise UserError(f"{name} must not be written; give an array of its own")
