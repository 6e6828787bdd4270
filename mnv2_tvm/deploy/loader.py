"""Load a built library into this process and call it on numpy arrays."""

import ctypes
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_tvm.deploy.manifest import MANIFEST, Manifest, file_sha256
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import check_loadable, scratch_folder
from mnv2_tvm.host import this_host
from mnv2_tvm.replace import reading

LIBRARY, HEADER = "libmnv2.so", "mnv2.h"
PACKAGE_LIBRARY = Path("lib") / LIBRARY  # where `build --package` puts it
STATIC_LIBRARY = "libmnv2.a"  # of a microcontroller
_ALIGNMENT = 64  # bytes, of the workspace

Floats = np.ndarray[Any, np.dtype[np.float32]]


def load(folder: str | Path, threads: int | None = None) -> "Network":
    """The library in `folder` as a callable on arrays, with `threads` instead of the built count.

    Raises UserError where the folder holds no library, a damaged one, or one that this host
    cannot run.
    """
    return Network(Path(folder), threads)


class Network:
    """A built network: float32 [m, y, x, 3], normalised, to [m, classes], for any m.

    `m` is cut into batches of the size the library was built for. One instance owns one
    workspace: calls from several threads need an instance each.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        with reading(folder):  # not one build's manifest and the library of the next
            self.manifest = Manifest.read(folder)
            _check_host(folder, self.manifest)
            self._library = _open(folder, self.manifest)
        self.input_shape = tuple(self.manifest.input_shape)
        self.output_shape = tuple(self.manifest.output_shape)
        size = self._library.mnv2_workspace_bytes()
        sizes = (self._library.mnv2_input_size(), self._library.mnv2_output_size(), size)
        said = (prod(self.input_shape), prod(self.output_shape), self.manifest.workspace_bytes)
        if sizes != said or len(self.input_shape) != 4 or len(self.output_shape) != 2:
            raise UserError(f"{folder / MANIFEST} is not of the library beside it; build it again")
        self._memory = np.zeros(size + _ALIGNMENT, np.uint8)
        self._workspace = -(-self._memory.ctypes.data // _ALIGNMENT) * _ALIGNMENT
        self.set_threads(self.manifest.threads if threads is None else threads)

    def __call__(self, images: Floats) -> Floats:
        """Logits [m, classes] of images [m, y, x, 3]. Raises UserError for another shape."""
        return in_batches(self._run_batch, images, self.manifest)

    def _run_batch(self, images: Floats) -> Floats:
        result = np.empty(self.output_shape, np.float32)
        self.run(images, result)
        return result

    def run(self, images: Floats, result: Floats) -> None:
        """One call of `mnv2_run` on contiguous arrays of exactly the library's shapes."""
        assert images.shape == self.input_shape and result.shape == self.output_shape
        _check_code(self._library.mnv2_run(images.ctypes.data, result.ctypes.data, self._workspace))

    def profile(self, images: Floats) -> dict[int, float]:
        """Run once and return the seconds of each layer by its number."""
        assert images.shape == self.input_shape
        result = np.empty(self.output_shape, np.float32)
        seconds = np.zeros(self._library.mnv2_layer_count(), np.float64)
        arrays = (images.ctypes.data, result.ctypes.data, self._workspace, seconds.ctypes.data)
        _check_code(self._library.mnv2_profile(*arrays))
        return dict(enumerate(seconds.tolist()))

    @property
    def threads(self) -> int:
        """Threads of a run. They belong to the library: all instances of it share the count."""
        return int(self._library.mnv2_get_threads())

    def set_threads(self, count: int) -> None:
        """Use `count` threads from the next run on."""
        if self._library.mnv2_set_threads(count):
            raise UserError(f"{count} threads cannot be had: give 1 to 64")

    def pin(self, cpus: Sequence[int]) -> None:
        """Use a thread on each of `cpus` from now on; the calling thread moves to the first.

        Raises UserError for a CPU that is not there, or not for this process.
        """
        self.set_threads(len(cpus))
        for thread in reversed(range(len(cpus))):
            if self._library.mnv2_pin(thread, cpus[thread]):
                raise UserError(f"there is no CPU {cpus[thread]} for this process; see nproc")


def in_batches(run: Callable[[Floats], Floats], images: Floats, manifest: Manifest) -> Floats:
    """Logits [m, classes] of images [m, y, x, 3] from runs of the size the library was built for.

    Raises UserError for images of another shape.
    """
    batch, *shape = manifest.input_shape
    _check_images(images, tuple(shape))
    outputs = np.empty((len(images), manifest.output_shape[1]), np.float32)
    for start in range(0, len(images), batch):
        part = np.ascontiguousarray(images[start : start + batch])
        used = len(part)
        if used < batch:
            part = np.concatenate([part, np.zeros((batch - used, *shape), np.float32)])
        outputs[start : start + used] = run(part)[:used]
    return outputs


def _check_images(images: Floats, shape: tuple[int, ...]) -> None:
    wanted = f"float32 [m, {', '.join(map(str, shape))}]"
    if not isinstance(images, np.ndarray) or images.dtype != np.float32:
        kind = getattr(images, "dtype", type(images).__name__)
        raise UserError(f"the input is {kind}; the network takes {wanted}")
    if images.ndim != 4 or images.shape[1:] != shape:
        raise UserError(f"the input has shape {list(images.shape)}; the network takes {wanted}")


def _check_host(folder: Path, manifest: Manifest) -> None:
    lacking = this_host().missing(manifest.machine, tuple(manifest.cpu_features))
    if lacking:
        raise UserError(
            f"{folder} was built for {manifest.target}; this host lacks {', '.join(lacking)}. "
            "Build for this host with python -m mnv2_tvm.build --target x86"
        )


def library_path(folder: Path) -> Path:
    """Where the library of a build is: in its folder, or in `lib/` of a package."""
    places = (folder / PACKAGE_LIBRARY, folder / STATIC_LIBRARY)
    return next((path for path in places if path.is_file()), folder / LIBRARY)


def whole_library(folder: Path, manifest: Manifest) -> Path:
    """The library in `folder`. Raises UserError where it is missing or not the manifest's."""
    path = library_path(folder)
    if not path.is_file():
        raise UserError(f"{folder} holds no library; build it again")
    if file_sha256(path) != manifest.sha256:
        raise UserError(f"{path} is damaged: its SHA-256 is not the manifest's; build it again")
    return path


def _open(folder: Path, manifest: Manifest) -> ctypes.CDLL:
    path = whole_library(folder, manifest)
    check_loadable(path)
    # Under a name of its own: the dynamic linker would take a library that was loaded from the
    # same path before for this one, even if it was built anew since.
    with scratch_folder() as scratch:
        link = Path(scratch) / LIBRARY
        link.symlink_to(path.resolve())
        library = ctypes.CDLL(str(link))
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "mnv2_run": (integer, [pointer] * 3),
        "mnv2_profile": (integer, [pointer] * 4),
        "mnv2_set_threads": (integer, [integer]),
        "mnv2_get_threads": (integer, []),
        "mnv2_pin": (integer, [integer, integer]),
        "mnv2_input_size": (ctypes.c_size_t, []),
        "mnv2_output_size": (ctypes.c_size_t, []),
        "mnv2_workspace_bytes": (ctypes.c_size_t, []),
        "mnv2_layer_count": (integer, []),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _check_code(code: int) -> None:
    if code:
        raise RuntimeError(f"libmnv2 returned error {code}, see {HEADER}")
