"""`manifest.json`: what a built library is, from what it was made, and what it needs.

| key | meaning |
|---|---|
| `target` | name of the target it was built for |
| `machine`, `cpu_features` | what a host must have to run it |
| `input_shape`, `output_shape`, `dtype` | [n, y, x, c] and [n, classes], `float32` |
| `width`, `resolution`, `classes` | of the network |
| `weights` | file name of the weights, network in it if there are several; or `random, seed N` |
| `threads` | threads of a run, unless the caller sets another count |
| `workspace_bytes`, `weight_bytes`, `code_bytes` | memory a run needs, bytes of weights and code |
| `sha256` | of the library |
| `versions` | of everything that took part in the build |
| `flops` | of one run; two a multiply-add |
| `flops_share` | share of the FLOPs on `tuned`, `tuned elsewhere` and `default` kernels |
| `layers` | in order: `name`, `flops`, `source`, `kernel` and its `decisions` |
| `network` | its identity: kind, sizes, and the weights with their SHA-256, or their seed |
| `format` | of this file; a reader of 1 ignores keys that it does not know |
| `files` | SHA-256 of every other file of the build, by its path in the folder |

A last key, `manifest_sha256`, is that of the text without it: so `build` knows whether the file is
as it wrote it. A kernel is `tuned` where its record is of the CPU that built the library, and
`tuned elsewhere` where it is of another CPU of the target, as for every target that the builder
cannot run.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from mnv2_tvm.errors import UserError
from mnv2_tvm.files import file_sha256 as file_sha256
from mnv2_tvm.replace import is_inside, reading
from mnv2_tvm.untrusted import convert, parse_json, printable, read_bytes

MANIFEST = "manifest.json"
FORMAT = 1

_LARGEST = 2**63 - 1  # what a C library can be told
_SEAL = re.compile(rb',\n  "manifest_sha256": "([0-9a-f]{64})"(?=\n}\n\Z)')

Text = Annotated[str, Meta(min_length=1, max_length=1000)]
Count = Annotated[int, Meta(ge=0, le=_LARGEST)]
Positive = Annotated[int, Meta(ge=1, le=_LARGEST)]
Share = Annotated[float, Meta(ge=0, le=1)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]


@dataclass(frozen=True)
class _Row:
    """What readers take of a layer, beside its decisions."""

    name: Text
    flops: Count
    source: Text
    decisions: dict[str, Any]
    kernel: Text | None = None  # 0.1.0 wrote none


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`; the table above explains the keys."""

    target: Text
    machine: Text
    cpu_features: list[Text]
    input_shape: Annotated[list[Positive], Meta(min_length=4, max_length=4)]
    output_shape: Annotated[list[Positive], Meta(min_length=2, max_length=4)]
    dtype: Text
    width: Annotated[float, Meta(gt=0)]
    resolution: Positive
    classes: Positive
    weights: Text
    threads: Annotated[int, Meta(ge=1, le=64)]
    workspace_bytes: Count
    weight_bytes: Count
    code_bytes: Count
    sha256: Sha256
    versions: dict[Text, Text]
    flops: Positive
    flops_share: dict[Text, Share]
    layers: list[dict[str, Any]]
    network: dict[str, Any] = field(default_factory=dict)
    format: Count = FORMAT
    files: dict[Text, Sha256] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for what no type can say; `Manifest.read` adds the file's name."""
        if max(prod(self.input_shape), prod(self.output_shape)) > _LARGEST // 4:
            raise ValueError("a shape has more bytes than can be addressed")
        for path in self.files:
            if not is_inside(path):
                raise ValueError(f"files: {printable(path)!r} is not the path of a file in it")
        texts = (self.target, self.machine, *self.cpu_features, self.weights)
        for text in (*texts, *self.versions, *self.versions.values(), *self.flops_share):
            if text != printable(text, len(text)):
                raise ValueError(f"{printable(text)!r} has control characters")

    @property
    def identity(self) -> dict[str, Any]:
        """`network`, or what a manifest without it tells: no hash of the weights."""
        if self.network:
            return self.network
        seed = re.fullmatch(r"random, seed ([0-9]{1,10})", self.weights)
        return {
            "kind": "mobilenet_v2",
            **{"width": self.width, "resolution": self.resolution, "classes": self.classes},
            "batch": self.input_shape[0],
            "weights": {"seed": int(seed[1])} if seed else {"file": self.weights},
        }

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`."""
        table = asdict(self)
        digest = hashlib.sha256(_text(table)).hexdigest()
        (folder / MANIFEST).write_bytes(_text(table | {"manifest_sha256": digest}))

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read it back. Raises UserError where it is missing or not a manifest."""
        path = folder / MANIFEST
        if folder.is_file():
            raise UserError(f"{folder} is a file; give the folder that holds it")
        remedy = f"build it with python -m mnv2_tvm.build -o {folder}"
        with reading(folder):
            try:
                if not path.exists():
                    raise UserError(f"{folder} holds no {MANIFEST}")
                return cls.parse(read_bytes(path, str(path)), path)
            except UserError as error:
                raise UserError(f"{error}; {remedy}") from error

    @classmethod
    def parse(cls, data: bytes, path: Path) -> "Manifest":
        """The manifest with the text `data`. Raises UserError that names `path`."""
        source = f"{path} is not a manifest"
        table = parse_json(data, source)
        if isinstance(table, dict) and "target" in table:
            table.setdefault("format", 0)  # 0.1.0 wrote none
            later = table["format"]
            if isinstance(later, int) and later > FORMAT:
                raise UserError(f"{path} was written by a later version, in format {later}")
        manifest = convert(table, cls, source)
        convert(manifest.layers, list[_Row], f"{source}: layers")
        return manifest


def is_unchanged(data: bytes) -> bool:
    """Whether the text of a manifest is as `Manifest.write` left it."""
    seal = _SEAL.search(data)
    if seal is None:
        return False
    rest = data[: seal.start()] + data[seal.end() :]
    return hashlib.sha256(rest).hexdigest().encode() == seal[1]


def _text(table: dict[str, Any]) -> bytes:
    return (json.dumps(table, indent=2) + "\n").encode()
