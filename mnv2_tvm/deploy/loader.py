"""Load a built library into this process and call it on numpy arrays."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_tvm.deploy.arrays import check_memory, in_batches
from mnv2_tvm.deploy.manifest import MANIFEST, Manifest, file_sha256
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import check_loadable
from mnv2_tvm.host import this_host
from mnv2_tvm.numbers import Floats
from mnv2_tvm.replace import reading

LIBRARY, HEADER = "libmnv2.so", "mnv2.h"
PACKAGE_LIBRARY = Path("lib") / LIBRARY  # where `build --package` puts it
STATIC_LIBRARY = "libmnv2.a"  # of a microcontroller
MAX_THREADS = 64  # as MNV2_MAX_THREADS in mnv2.h
_ALIGNMENT = 64  # bytes, of the workspace

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
    threads at once; the first takes the library's threads, the others run on their own. A copy, and
    one that is sent to another process, loads the library anew.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        with reading(folder):  # not one build's manifest and the library of the next
            self.manifest = Manifest.read(folder)
            _check_host(folder, self.manifest)
            self._library = _open(folder, self.manifest)
        self.input_shape = tuple(self.manifest.input_shape)
        self.output_shape = tuple(self.manifest.output_shape)
        self._folder = folder.absolute()
        size = self._library.mnv2_workspace_bytes()
        sizes = (self._library.mnv2_input_size(), self._library.mnv2_output_size(), size)
        said = (prod(self.input_shape), prod(self.output_shape), self.manifest.workspace_bytes)
        ranks = (len(self.input_shape), len(self.output_shape))
        if sizes != said or ranks != (4, self._library.mnv2_output_rank()):
            raise UserError(f"{folder / MANIFEST} is not of the library beside it; build it again")
        self._idle: list[_Workspace] = []  # one for each call that ran at the same time
        self.set_threads(self.manifest.threads if threads is None else threads)

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_again, (self._folder, self.threads, self.manifest.sha256)

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the library's threads, which sleep between runs; the next run starts them again.

        The library itself stays in memory until the process ends.
        """
        self._library.mnv2_shutdown()
        self._idle.clear()

    def __call__(self, images: Floats) -> Floats:
        """Logits [m, ...] of images [m, y, x, 3].

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
        check_memory("input", images, self.input_shape)
        check_memory("result", result, self.output_shape, written=True)
        with self._workspace() as workspace:
            code = self._library.mnv2_run(images.ctypes.data, result.ctypes.data, workspace)
        _check_code(code)

    def profile(self, images: Floats) -> dict[int, float]:
        """Run once and return the seconds of each layer by its number."""
        check_memory("input", images, self.input_shape)
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
        """The threads that a run takes now: `threads`, or fewer if fewer CPUs may be used."""
        return int(self._library.mnv2_team_threads())

    def set_threads(self, count: int) -> None:
        """Use `count` threads from the next run on. Raises UserError unless it is 1 to 64."""
        known = type(count) is int and 1 <= count <= MAX_THREADS
        if not known or self._library.mnv2_set_threads(count):
            raise UserError(f"{count!r} threads cannot be had: give 1 to {MAX_THREADS}")

    def pin(self, cpus: Sequence[int]) -> None:
        """Use a thread on each of `cpus` from now on; the calling thread moves to the first.

        Raises UserError for a CPU that is not there, or not for this process.
        """
        for cpu in cpus:
            if type(cpu) is not int or not 0 <= cpu < 2**31:
                raise UserError(f"there is no CPU {cpu!r} for this process; see nproc")
        self.set_threads(len(cpus))
        for thread in reversed(range(len(cpus))):
            if self._library.mnv2_pin(thread, cpus[thread]):
                raise UserError(f"there is no CPU {cpus[thread]} for this process; see nproc")

    @contextmanager
    def _workspace(self) -> Iterator[int]:
        """The address of a workspace that no other call uses.

        A lock in its place would stay locked in a process that forks during another's call.
        """
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


def _load_again(folder: Path, threads: int, sha256: str) -> Network:
    """The same network in another process, or a copy of it in this one."""
    network = Network(folder, threads)
    if network.manifest.sha256 != sha256:
        raise UserError(f"{folder} was built again since the network was loaded; load it anew")
    return network


def _check_host(folder: Path, manifest: Manifest) -> None:
    lacking = this_host().missing(manifest.machine, tuple(manifest.cpu_features))
    if lacking:
        raise UserError(
            f"{folder} was built for {manifest.target}; this host lacks {', '.join(lacking)}. "
            "Build for this host with python -m mnv2_tvm.build, without --target"
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
    path = whole_library(folder, manifest).resolve()
    check_loadable(path)
    library = _load_file(path)
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
            raise UserError(f"{path} is of an earlier version, without {name}; build it again")
        function.restype, function.argtypes = result, arguments
    return library


_loaded: dict[Path, tuple[int, tuple[int, int]]] = {}  # how often, and which file


def _load_file(path: Path) -> ctypes.CDLL:
    """The library in a file. One that was built anew since is another one, also of the same path.

    The dynamic linker knows what it has loaded by the path as it is spelt, then by the file.
    """
    found = path.stat()
    file = (found.st_dev, found.st_ino)
    times, known = _loaded.get(path, (0, file))
    if known != file:
        times += 1
    _loaded[path] = times, file
    try:
        return ctypes.CDLL(f"{path.parent}/{'./' * times}{path.name}")
    except OSError as error:
        raise UserError(
            f"{path} cannot be loaded ({error}); build it again, and not where files may not run"
        ) from error


def _check_code(code: int) -> None:
    if code:
        raise RuntimeError(f"libmnv2 returned error {code}, see {HEADER}")
