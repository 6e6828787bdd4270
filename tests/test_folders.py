"""The plan of the house: who imports whom, and how long a file may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import mnv2_tvm

PACKAGE = Path(mnv2_tvm.__file__).parent
LONGEST = 300  # lines of a file


def test_no_folders_import_each_other_in_a_circle() -> None:
    """A file beside the folders counts as one of its own; the package's `__init__` is the roof."""
    reads: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        room = _room(_name(path))
        reads.setdefault(room, set()).update(_room(name) for name in _imported(path))
        reads[room].discard(room)
    assert "deploy" in reads["devices.rpc"] and "records" in reads["search"]  # it sees them
    while free := {room for room, others in reads.items() if not others & set(reads)}:
        reads = {room: others for room, others in reads.items() if room not in free}
    assert not reads, f"these cannot be put one above the other: {sorted(reads)}"


def test_every_file_can_be_read_in_one_go() -> None:
    long = {
        str(path.relative_to(PACKAGE)): count
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".c", ".h")
        and (count := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST
    }
    assert not long


def _name(path: Path) -> str:
    """A module in the package: `deploy.link`; an `__init__` has the name of its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(name: str) -> str:
    """The folder of a module; one beside the folders is a room of its own."""
    folder = PACKAGE.joinpath(*name.split("."))
    parent = name.rpartition(".")[0]
    return name if folder.is_dir() or not parent else parent


def _imported(path: Path) -> Iterator[str]:
    """The package's modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, module = name.partition(".")
            if package == PACKAGE.name:
                yield module if _is_module(module) else module.rpartition(".")[0]


def _is_module(name: str) -> bool:
    place = PACKAGE.joinpath(*name.split("."))
    return place.is_dir() or place.with_suffix(".py").is_file()
