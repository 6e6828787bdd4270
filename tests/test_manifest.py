"""A manifest is read by type: whatever is wrong with it is one sentence that names the place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Built

from mnv2_tvm.deploy.loader import LIBRARY
from mnv2_tvm.deploy.manifest import MANIFEST, Manifest, file_sha256, is_unchanged
from mnv2_tvm.errors import UserError
from mnv2_tvm.model.source import open_source

WRONG: dict[str, Any] = {
    "input_shape": [
        None,
        "x",
        [],
        [1, 2, 3],
        [1, 32, 32, -3],
        [1, 2**40, 2**40, 3],
        [1, 1, 1, 1.5],
    ],
    "output_shape": [None, [10], [0, 10], [2**62, 2]],
    "workspace_bytes": [-1, 2**63, 10**400, 1.5, "1"],
    "flops": [0, None],
    "threads": [0, 65, True],
    "width": ["1.0", 0, -1, float("nan"), float("inf")],
    "target": [7, "", "a\x1b]52;c;", "x" * 1001],
    "cpu_features": ["avx2", [3], ["a\nb"]],
    "sha256": ["", "0" * 63, "G" * 64, "0" * 64 + "\n"],
    "versions": [[], {"torch": 2}, {"a\x07": "2"}],
    "flops_share": [{"tuned": 2.0}, {"tuned": "1"}],
    "layers": [None, [7], [{}], [{"name": 7, "flops": 1, "source": "tuned", "decisions": {}}]],
    "files": [[], {"a": "1"}, *({p: "0" * 64} for p in ("../a", "/a", "a/../b", "a//b", ".", ""))],
    "format": [2, -1, "1"],
    "network": [7, [], "mobilenet_v2", None],
}


@pytest.fixture
def table(tiny: Built) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((tiny.folder / MANIFEST).read_text())
    return parsed


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_value_is_named(tmp_path: Path, table: dict[str, Any], key: str) -> None:
    for value in WRONG[key]:
        (tmp_path / MANIFEST).write_text(json.dumps(table | {key: value}))
        with pytest.raises(UserError, match=MANIFEST) as caught:
            Manifest.read(tmp_path)
        assert "\n" not in str(caught.value) and str(caught.value).isprintable()


def test_an_earlier_manifest_has_an_identity_too(table: dict[str, Any]) -> None:
    known = Manifest.parse(json.dumps(table).encode(), Path("x"))
    del table["network"]
    earlier = Manifest.parse(json.dumps(table).encode(), Path("x"))
    assert earlier.identity == known.identity == known.network


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "resnet"},
        {"width": "1.0"},
        {"width": -1.0},
        {"classes": 10**9},
        {"resolution": None},
        {"weights": {"seed": -1}},
        {"weights": "random"},
        {"weights": {}},
    ],
    ids=str,
)
def test_an_identity_that_names_no_network(table: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        open_source(table["network"] | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"[" * 10**6, b'{"flops": ' + b"9" * 5000 + b"}", b"\xff{}", b""])
def test_what_is_no_json_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(data)
    with pytest.raises(UserError, match=MANIFEST):
        Manifest.read(tmp_path)


def test_each_missing_key_is_named(tiny: Built, table: dict[str, Any]) -> None:
    for key in table.keys() - {"format", "files", "manifest_sha256", "network"}:
        rest = {name: value for name, value in table.items() if name != key}
        with pytest.raises(UserError, match=f"`{key}`"):
            Manifest.parse(json.dumps(rest).encode(), tiny.folder / MANIFEST)


def test_of_a_later_version_and_of_the_first_one(tiny: Built, table: dict[str, Any]) -> None:
    later = json.dumps(table | {"colour": "red"})
    assert Manifest.parse(later.encode(), tiny.folder) == tiny.manifest
    first = json.dumps(
        {key: value for key, value in table.items() if key not in ("format", "files")}
    )
    manifest = Manifest.parse(b"\xef\xbb\xbf" + first.encode(), tiny.folder)
    assert (manifest.format, manifest.files) == (0, {})
    assert manifest.sha256 == tiny.manifest.sha256


def test_every_file_is_listed(tiny: Built) -> None:
    files = tiny.manifest.files
    assert files.keys() | {MANIFEST} == {path.name for path in tiny.folder.iterdir()}
    assert all(file_sha256(tiny.folder / name) == digest for name, digest in files.items())
    assert files[LIBRARY] == tiny.manifest.sha256


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"0.35", b"0.5"),
        lambda data: data + b"\n",
        lambda data: json.dumps(json.loads(data)).encode(),
        lambda data: data.replace(b'_sha256": "', b'_sha256": "0'),
        lambda data: b'{"manifest_version": 3}',
    ],
)
def test_a_change_is_seen(tiny: Built, change: Callable[[bytes], bytes]) -> None:
    data = (tiny.folder / MANIFEST).read_bytes()
    assert is_unchanged(data) and not is_unchanged(change(data))
