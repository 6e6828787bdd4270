"""The kit of a board: what to copy there so that it installs itself and registers."""

import hashlib
import shutil
from pathlib import Path

from mnv2_tvm.device.plain_server import OPTION
from mnv2_tvm.device.tracker import PORT
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.target import Target

_SOURCES = Path(__file__).resolve().parent
_MACHINES = ("aarch64", "x86_64")  # apache-tvm has wheels for these
_LOCK = "requirements.txt"  # TVM as here, and what it needs, with hashes
_SUMS = "SHA256SUMS"  # of the kit's files: it is replaced only while they are unchanged
_BOARD_PORT = 9091


def write_kit(target: Target, folder: Path) -> Path:
    """Write the kit for boards of the target, all of it or nothing; an earlier kit is replaced.

    Raises UserError for a target without wheels of TVM, or where `folder` cannot be written or
    holds anything but the files of a kit as they were written.
    """
    _check_target(target)
    folder = folder.resolve()
    try:
        if folder.exists() and not _is_kit(folder):
            raise UserError(
                f"{folder} exists and is no kit as it was written; give another folder with -o"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(folder.parent, f".{folder.name}-") as name:
            new, old = Path(name) / "new", Path(name) / "old"
            _write(target, new)
            if folder.exists():
                folder.rename(old)
            try:
                new.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
    except OSError as error:
        raise UserError(f"the kit cannot be written to {folder}: {error}") from error
    return folder


def _check_target(target: Target) -> None:
    if target.android:
        raise UserError(
            f"{target.name}: there is no kit for Android; start TVM's tvm_rpc there as README.md "
            f"shows, with --key={target.name}, and give {OPTION} here"
        )
    if target.host.machine not in _MACHINES:
        raise UserError(
            f"{target.name}: apache-tvm has no wheels for {target.host.machine}, only for "
            f"{' and '.join(_MACHINES)}; a 64-bit system on the board takes another target, such "
            "as --target rasp4"
        )


def _is_kit(folder: Path) -> bool:
    """Whether the folder is empty or holds the files of a kit, unchanged, and no others."""
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    sums = folder / _SUMS
    return sums.is_file() and sums.read_bytes() == _sums(folder).encode()


def _sums(folder: Path) -> str:
    """What `sha256sum` says of all files of a kit but this one; Python's caches do not count."""
    lines = []
    for path in sorted(folder.rglob("*")):
        if "__pycache__" in path.relative_to(folder).parts:
            continue
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            lines.append(f"{path} is none of ours\n")
        elif path.is_file() and path != folder / _SUMS:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(f"{digest}  {path.relative_to(folder)}\n")
    return "".join(lines)


def _write(target: Target, folder: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_SOURCES / "board", folder / "board", ignore=ignored)
    shutil.copyfile(_SOURCES / "kit_files" / _LOCK, folder / _LOCK)
    words = {
        "@TARGET@": target.name,
        "@MACHINE@": target.host.machine,
        "@DESCRIPTION@": target.description,
        "@TRACKER_PORT@": str(PORT),
        "@BOARD_PORT@": str(_BOARD_PORT),
    }
    for name in ("install.sh", "README.txt"):
        text = (_SOURCES / "kit_files" / name).read_text(encoding="utf-8")
        for word, meaning in words.items():
            text = text.replace(word, meaning)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "install.sh").chmod(0o755)
    (folder / _SUMS).write_text(_sums(folder), encoding="utf-8")
