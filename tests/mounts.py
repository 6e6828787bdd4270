"""Commands that see a mount of their own: a full disk, a folder that is noexec or read-only."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run_python

_SPACES = ["unshare", "--user", "--map-root-user", "--mount"]


def run_with_mount(
    folder: Path, options: str, *arguments: str | Path, **keywords: str
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` where a tmpfs with `options` is mounted on `folder`."""
    if not shutil.which("unshare") or subprocess.run([*_SPACES, "true"], check=False).returncode:
        pytest.skip("no user name spaces here, which a mount of one's own needs")
    mount = 'mount -t tmpfs -o "$1" tmpfs "$2" && shift 2 && exec "$@"'
    words = [*_SPACES, "sh", "-c", mount, "sh", options, str(folder), sys.executable, *arguments]
    script = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
    return run_python("-c", script, *words, **keywords)
