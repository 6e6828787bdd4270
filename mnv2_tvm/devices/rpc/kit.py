"""The kit of a board: what to copy there so that it installs itself and registers."""

import shutil
from pathlib import Path

from mnv2_tvm.devices.rpc.tracker import PORT
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import PREFIX, file_sha256
from mnv2_tvm.replace import replacing
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
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} exists and is no kit; give another folder with -o")
        with replacing(folder, _written) as new:
            _write(target, new)
    except OSError as error:
        raise UserError(f"the kit cannot be written to {folder}: {error}") from error
    return folder


def _check_target(target: Target) -> None:
    if target.android:
        raise UserError(
            f"{target.name}: there is no kit for Android; tune and bench reach a phone with "
            "--on adb"
        )
    if target.host.machine not in _MACHINES:
        raise UserError(
            f"{target.name}: apache-tvm has no wheels for {target.host.machine}, only for "
            f"{' and '.join(_MACHINES)}; a 64-bit system on the board takes another target, such "
            "as --target rasp4"
        )


def _written(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of the kit in `folder`, by path; none where it is empty.

    Raises UserError where it holds anything else.
    """
    if not _files(folder):
        return {}
    sums = folder / _SUMS
    if not sums.is_file() or sums.read_bytes() != _sums(folder).encode():
        raise UserError(
            f"{folder} exists and is no kit as it was written; give another folder with -o"
        )
    return {str(path.relative_to(folder)): file_sha256(path) for path in _files(folder)}


def _files(folder: Path) -> list[Path]:
    """All that is in a folder but folders, Python's caches, and what is being written."""
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        folders = path.is_dir() and not path.is_symlink()
        if not (folders or "__pycache__" in parts or parts[0].startswith(PREFIX)):
            found.append(path)
    return found


def _sums(folder: Path) -> str:
    """What `sha256sum` says of all files of a kit but this one."""
    lines = []
    for path in _files(folder):
        if path.is_symlink() or not path.is_file():
            lines.append(f"{path} is none of ours\n")
        elif path != folder / _SUMS:
            lines.append(f"{file_sha256(path)}  {path.relative_to(folder)}\n")
    return "".join(lines)


def _write(target: Target, folder: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_SOURCES.parent / "board", folder / "board", ignore=ignored)
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
