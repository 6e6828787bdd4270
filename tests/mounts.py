"""Commands that see mounts of their own: a full disk, a folder that is noexec or read-only."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run_python

import mnv2_tvm

_EXEC = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
_SPACES = ["unshare", "--user", "--map-root-user", "--mount"]


def run_with_mount(
    folder: Path, options: str, *arguments: str | Path, **keywords: str
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` where a tmpfs with `options` is mounted on `folder`."""
    if not shutil.which("unshare") or subprocess.run([*_SPACES, "true"], check=False).returncode:
        pytest.skip("no user name spaces here, which a mount of one's own needs")
    mount = 'mount -t tmpfs -o "$1" tmpfs "$2" && shift 2 && exec "$@"'
    words = [*_SPACES, "sh", "-c", mount, "sh", options, str(folder), sys.executable, *arguments]
    return run_python("-c", _EXEC, *words, **keywords)


def run_as_a_stranger(
    folder: Path, *arguments: str | Path, **keywords: str
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` as a user without an entry, a home, rights, or an umask of 022.

    The package is read-only, and a tmpfs that is noexec is mounted on `folder`.
    """
    stranger = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    spaces = [*_SPACES, *stranger, "true"]
    if not shutil.which("unshare") or subprocess.run(spaces, check=False).returncode:
        pytest.skip("no user name spaces here, which another user and mounts of one's own need")
    mounts = (
        'umask 077 && mount -o bind "$1" "$1" && mount -o remount,bind,ro "$1"'
        ' && mount -t tmpfs -o noexec tmpfs "$2" && shift 2 && exec "$@"'
    )
    package = str(Path(mnv2_tvm.__file__).parents[1])
    unset = [f"--unset={name}" for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")]
    given = [f"{name}={value}" for name, value in keywords.items()]
    words = [*_SPACES, "sh", "-c", mounts, "sh", package, str(folder)]
    words += [*stranger, "env", *unset, *given, sys.executable, *map(str, arguments)]
    return run_python("-c", _EXEC, *words)
