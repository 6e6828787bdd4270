"""Load a built library into this process and call it on numpy arrays."""

import ctypes
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count as count_up
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np

from mnv2_tvm.deploy.arrays import Floats, check_memory, in_batches
from mnv2_tvm.deploy.manifest import MANIFEST, Manifest, file_sha256
from mnv2_tvm.errors import UserError
from mnv2_tvm.host import this_host

LIBRARY, HEADER = "libmnv2.so", "mnv2.h"
PACKAGE_LIBRARY = Path("lib") / LIBRARY  # where `build --package` puts it
STATIC_LIBRARY = "libmnv2.a"  # of a microcontroller
MAX_THREADS = 64  # MNV2_MAX_THREADS of mnv2.h
_MAX_CPUS = 1024  # CPU_SETSIZE
_ALIGNMENT = 64  # bytes, of the workspace
_loads = count_up(1)

__all__ = ["Floats", "Network", "in_batches", "library_path", "load", "whole_library"]


def load(folder: str | Path, threads: int | None = None) -> "Network":
    """The library in `folder` as a callable on arrays, with `threads` instead of the built count.

    Raises UserError where the folder holds no library, a damaged one, or one that this host
    cannot run.
    """
    return Network(Path(folder), threads)


class Network:
    """A built network: float32 [m, y, x, 3], normalised, to [m, classes], for any m.

    `m` is cut into batches of the size the library was built for. Calls may come from several
    threads at once; the first takes the library's threads, the others run on their own. A copy
    shares the library. Sent to another process, it is loaded there from its folder.

    As a context manager it ends the library's threads on the way out.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.manifest = Manifest.read(folder)
        self.input_shape = tuple(self.manifest.input_shape)
        self.output_shape = tuple(self.manifest.output_shape)
        self._folder = folder.resolve()
        _check_host(folder, self.manifest)
        self._library = _open(folder, self.manifest)
        size = self._library.mnv2_workspace_bytes()
        sizes = (self._library.mnv2_input_size(), self._library.mnv2_output_size(), size)
        said = (prod(self.input_shape), prod(self.output_shape), self.manifest.workspace_bytes)
        ranks = (len(self.input_shape), len(self.output_shape))
        if sizes != said or ranks != (4, self._library.mnv2_output_rank()):
            raise UserError(f"{folder / MANIFEST} is not of the library beside it; build it again")
        self._idle: list[_Workspace] = []  # one for each call that runs at the same time
        self.set_threads(self.manifest.threads if threads is None else threads)

    def __call__(self, images: Floats) -> Floats:
        """Logits [m, classes] of images [m, y, x, 3].

        Other floats than float32 and other layouts are converted. Raises UserError for another
        shape, and for integers, which are pixels that nobody has normalised.
        """
        return in_batches(self._run_batch, images, self.manifest)

    def _run_batch(self, images: Floats) -> Floats:
        result = np.empty(self.output_shape, np.float32)
        self.run(images, result)
        return result

    def run(self, images: Floats, result: Floats) -> None:
        """One call of `mnv2_run` on arrays of exactly the library's shapes, without a copy.

        Raises UserError unless they are contiguous float32 and `result` may be written.
        """
        check_memory("the input", images, self.input_shape)
        check_memory("the result", result, self.output_shape, written=True)
        with self._workspace() as workspace:
            code = self._library.mnv2_run(images.ctypes.data, result.ctypes.data, workspace)
        _check_code(code)

    def profile(self, images: Floats) -> dict[int, float]:
        """Run once and return the seconds of each layer by its number."""
        check_memory("the input", images, self.input_shape)
        result = np.empty(self.output_shape, np.float32)
        seconds = np.zeros(self._library.mnv2_layer_count(), np.float64)
        with self._workspace() as workspace:
            arrays = (images.ctypes.data, result.ctypes.data, workspace, seconds.ctypes.data)
            code = self._library.mnv2_profile(*arrays)
        _check_code(code)
        return dict(enumerate(seconds.tolist()))

    @property
    def threads(self) -> int:
        """Threads of a run. They belong to the library: all instances of it share the count."""
        return int(self._library.mnv2_get_threads())

    @property
    def team_threads(self) -> int:
        """Those that a run takes now: fewer where this process may use fewer CPUs."""
        return int(self._library.mnv2_team_threads())

    def set_threads(self, count: int) -> None:
        """Use `count` threads from the next run on, as far as there are CPUs for them."""
        number = _whole(count)
        if not 1 <= number <= MAX_THREADS or self._library.mnv2_set_threads(number):
            raise UserError(f"{count!r} threads cannot be had: give 1 to {MAX_THREADS}")

    def pin(self, cpus: Sequence[int]) -> None:
        """Use a thread on each of `cpus` from now on; the calling thread moves to the first.

        Raises UserError for a CPU that is not there, or not for this process.
        """
        numbers = [_whole(cpu) for cpu in cpus]
        for cpu, number in zip(cpus, numbers, strict=True):
            if not 0 <= number < _MAX_CPUS:
                raise _no_cpu(cpu)
        self.set_threads(len(numbers))
        for thread in reversed(range(len(numbers))):
            if self._library.mnv2_pin(thread, numbers[thread]):
                raise _no_cpu(cpus[thread])

    def close(self) -> None:
        """End the library's threads and free the workspaces. The next call starts them again.

        The library itself stays in memory until the process ends.
        """
        self._library.mnv2_shutdown()
        self._idle.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_again, (str(self._folder), self.manifest.sha256, self.threads)

    @contextmanager
    def _workspace(self) -> Iterator[int]:
        """The address of a workspace that no other call uses."""
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = _Workspace(self.manifest.workspace_bytes)
        try:
            yield workspace.address
        finally:
            self._idle.append(workspace)


class _Workspace:
    """Memory of a run, aligned."""

    def __init__(self, size: int) -> None:
        self._memory = np.zeros(size + _ALIGNMENT, np.uint8)
        self.address = -(-self._memory.ctypes.data // _ALIGNMENT) * _ALIGNMENT


def _load_again(folder: str, sha256: str, threads: int) -> Network:
    """A network that came from another process. Raises UserError where its folder has changed."""
    network = Network(Path(folder), threads)
    if network.manifest.sha256 != sha256:
        raise UserError(f"{folder} was built anew since the network was sent; load it again")
    return network


def _whole(number: object) -> int:
    """A whole number, and -1 for anything else, such as True or 2.0."""
    try:
        return -1 if isinstance(number, bool | np.bool_) else operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        return -1


def _no_cpu(cpu: object) -> UserError:
    return UserError(f"there is no CPU {cpu!r} for this process; see nproc")


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
    try:
        library = ctypes.CDLL(_new_name(path.resolve()))
    except OSError as error:
        raise UserError(
            f"{path} cannot be loaded ({error}); copy its folder to a file system that is not "
            "mounted noexec, or build it again"
        ) from error
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "mnv2_run": (integer, [pointer] * 3),
        "mnv2_profile": (integer, [pointer] * 4),
        "mnv2_set_threads": (integer, [integer]),
        "mnv2_get_threads": (integer, []),
        "mnv2_team_threads": (integer, []),
        "mnv2_pin": (integer, [integer, integer]),
        "mnv2_shutdown": (None, []),
        "mnv2_input_size": (ctypes.c_size_t, []),
        "mnv2_output_size": (ctypes.c_size_t, []),
        "mnv2_workspace_bytes": (ctypes.c_size_t, []),
        "mnv2_output_rank": (integer, []),
        "mnv2_layer_count": (integer, []),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name, None)
        if function is None:
            raise UserError(f"{path} was built by another version; build it again")
        function.restype, function.argtypes = result, arguments
    return library


def _new_name(path: Path) -> str:
    """The path, written as no load before has: with `/` and `/.` for the digits of its number.

    The dynamic linker would take a library that was loaded under the same name for this one, even
    if it was built anew since. It knows one that is the same file by its inode.
    """
    digits = format(next(_loads), "b").replace("0", "/").replace("1", "/.")
    return f"{path.parent}{digits}/{path.name}"


def _check_code(code: int) -> None:
    if code:
        raise RuntimeError(f"libmnv2 returned error {code}, see {HEADER}")
