"""`manifest.json`: what a built library is, from what it was made, and what it needs.

| key | meaning |
|---|---|
| `target` | name of the target it was built for |
| `machine`, `cpu_features` | what a host must have to run it |
| `input_shape`, `output_shape`, `dtype` | [n, y, x, c] and [n, classes], `float32` |
| `width`, `resolution`, `classes` | of the network |
| `weights` | file name of the weights, or `random, seed N` |
| `threads` | threads of a run, unless the caller sets another count |
| `workspace_bytes`, `weight_bytes`, `code_bytes` | memory a run needs, bytes of weights and code |
| `sha256` | of the library |
| `versions` | of everything that took part in the build |
| `flops` | of one run; two a multiply-add |
| `flops_share` | share of the FLOPs on `tuned`, `tuned elsewhere` and `default` kernels |
| `layers` | in order: `name`, `flops`, `source`, `decisions` |

A kernel is `tuned` where its record is of the CPU that built the library, and `tuned elsewhere`
where it is of another CPU of the target, as for every target that the builder cannot run.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mnv2_tvm.errors import UserError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`; the table above explains the keys."""

    target: str
    machine: str
    cpu_features: list[str]
    input_shape: list[int]
    output_shape: list[int]
    dtype: str
    width: float
    resolution: int
    classes: int
    weights: str
    threads: int
    workspace_bytes: int
    weight_bytes: int
    code_bytes: int
    sha256: str
    versions: dict[str, str]
    flops: int
    flops_share: dict[str, float]
    layers: list[dict[str, Any]]

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read it back. Raises UserError where it is missing or not a manifest."""
        path = folder / MANIFEST
        if folder.is_file():
            raise UserError(f"{folder} is a file; give the folder that holds it")
        remedy = f"build it with python -m mnv2_tvm.build -o {folder}"
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"{folder} holds no {MANIFEST}; {remedy}") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}; {remedy}") from error
        names = {field.name for field in fields(cls)}
        if not isinstance(table, dict) or table.keys() != names:
            raise UserError(f"{path} is not a manifest of this version; {remedy}")
        return cls(**table)


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
