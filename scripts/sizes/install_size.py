"""Number and megabytes of the packages that pip would download, by machine and Python.

The versions are the newest that pyproject.toml allows, not those of the lock: what a user gets who
installs the package from an index. Nothing is downloaded: an index tells the sizes.
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
MACHINES = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def sizes(machine: str, python: str, extras: list[str]) -> dict[str, int]:
    """Bytes of the wheel of each package, as uv resolves it."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pylock.toml"
        command = [ROOT / "scripts/uv", "pip", "compile", "--quiet", "--only-binary=:all:"]
        command += ["--python-platform", machine, "--python-version", python, "--no-config"]
        command += [word for extra in extras for word in ("--extra", extra)]
        command += ["--format", "pylock.toml", "--output-file", output, ROOT / "pyproject.toml"]
        subprocess.run(list(map(str, command)), check=True)
        packages = tomllib.loads(output.read_text(encoding="utf-8"))["packages"]
    return {one["name"]: min(wheel["size"] for wheel in one["wheels"]) for one in packages}


def main(extras: list[str]) -> None:
    """Print a row for each machine and Python, with the largest packages."""
    table = Table("machine", "Python", "packages", "MB", "largest", box=None)
    for machine in MACHINES:
        for python in PYTHONS:
            found = sizes(machine, python, extras)
            largest = sorted(found, key=lambda name: -found[name])[:4]
            told = ", ".join(f"{name} {found[name] / 1e6:.0f}" for name in largest)
            total = f"{sum(found.values()) / 1e6:.0f}"
            table.add_row(machine, python, str(len(found)), total, told)
    Console(width=120, markup=False, highlight=False).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
