"""Weights files that cannot be read: each is refused with its name and a remedy, none is run."""

import io
import json
import os
import pickle
import re
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mnv2_tvm.errors import UserError
from mnv2_tvm.model.checkpoint import read_checkpoint

State = dict[str, torch.Tensor]


@pytest.fixture
def state() -> State:
    generator = torch.Generator().manual_seed(0)
    return {f"layer{i}.weight": torch.randn(40, 40, generator=generator) for i in range(3)}


def refusal(path: Path) -> str:
    """The text of the error, which must name the file."""
    with pytest.raises(UserError, match=re.escape(str(path))) as caught:
        read_checkpoint(path)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_missing_file_and_directory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"nowhere{suffix}"
    assert "check the path" in refusal(path)
    path.mkdir()
    assert "Is a directory" in refusal(path)
    path.rmdir()
    os.mkfifo(path)  # nobody will ever write into it
    assert "not an ordinary file" in refusal(path)


def test_unknown_suffix(tmp_path: Path) -> None:
    path = tmp_path / "weights.onnx"
    path.touch()
    assert "give a file of .pth, .pt, .bin, .safetensors" in refusal(path)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_file(tmp_path: Path, state: State, kind: str, kept: float) -> None:
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert "truncated" in refusal(path)


@pytest.mark.parametrize("content", [b"<html>404", b"version https://git-lfs", b"hello world"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_file_of_another_kind(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert "of another kind" in refusal(path)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, witness = tmp_path / "weights.pth", tmp_path / "ran"
    torch.save({"x": Touch(witness)}, path, _use_new_zipfile_serialization=zipped)
    assert "would run code" in refusal(path)
    assert not witness.exists()
    torch.load(path, weights_only=False)
    assert witness.exists(), "the file was harmless, so this test proved nothing"


def test_code_in_a_bare_pickle_is_not_run(tmp_path: Path) -> None:
    path, witness = tmp_path / "weights.pth", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Touch(witness)))
    refusal(path)
    assert not witness.exists()


def test_whole_module_is_refused_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    text = refusal(path)
    assert "torch.nn.modules.linear.Linear" in text
    assert "torch.save(model.state_dict()" in text


@pytest.mark.parametrize("content", [[1, 2], 3.0, {}, {"a": 1}, {"a": {"b": 2}}, {0: 0}])
def test_no_dict_of_tensors(tmp_path: Path, content: object) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    assert "torch.save(model.state_dict(), ...)" in refusal(path)


def test_same_tensor_twice(tmp_path: Path, state: State) -> None:
    path = tmp_path / "weights.pth"
    torch.save(state | {"module.layer1.weight": torch.ones(10)}, path)
    assert "layer1.weight twice" in refusal(path)


def archive(path: Path, program: bytes, **entries: bytes) -> Path:
    """A file as torch.save writes it, with `program` as its pickle."""
    buffer = io.BytesIO()
    torch.save({}, buffer)
    with zipfile.ZipFile(buffer) as empty, zipfile.ZipFile(path, "w") as file:
        for name in empty.namelist():
            file.writestr(name, program if name.endswith("data.pkl") else empty.read(name))
        for name, content in entries.items():
            file.writestr(f"archive/data/{name}", content)
    return path


def legacy(path: Path, program: bytes) -> Path:
    """The same without an archive, as torch saved until version 1.6."""
    buffer = io.BytesIO()
    torch.save({}, buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(buffer.getvalue().replace(pickle.dumps({}, 2), program, 1))
    return path


def text(characters: str) -> bytes:
    encoded = characters.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


START, STOP = b"\x80\x02", b"."
DOUBLED = b")" + b"q\x00h\x00\x86" * 40  # a tuple of itself, 40 times: hashed in 2^40 steps
# Each keeps torch busy for minutes, takes all memory or kills the process.
BOMBS = {
    # Its message goes through a regular expression that is quadratic.
    "a long name": b"c" + b"a" * 300_000 + b"\nb\n" + STOP,
    "a text that is called": text("a" * 300_000) + b")R" + STOP,
    "a key of tuples": b"}" + DOUBLED + b"Ns" + STOP,
    "a set of tuples": b"cbuiltins\nset\n](" + DOUBLED + b"e\x85R" + STOP,
    "a deep tuple": b"})" + b"\x85" * 900_000 + b"Ns" + STOP,
    "a size": b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R" + STOP,
    "another codec": b"c_codecs\nencode\n" + text("a") + text("hex") + b"\x86R" + STOP,
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("write", [archive, legacy])
def test_bombs_are_refused_at_once(
    tmp_path: Path, write: Callable[[Path, bytes], Path], bomb: str
) -> None:
    path = write(tmp_path / "bomb.pth", START + BOMBS[bomb])
    start = time.monotonic()
    assert len(refusal(path)) < 1000
    assert time.monotonic() - start < 5


def test_a_call_of_a_function_that_only_torch_allows(tmp_path: Path) -> None:
    """Not one of those that make tensors: with a number it makes an array of any size."""
    sizes = b"J\xff\xff\xff\x7f\x85R" + STOP
    path = archive(tmp_path / "w.pth", START + b"ctorch\nTensor\n" + sizes)
    assert "torch.Tensor" in refusal(path)


def test_too_many_instructions(tmp_path: Path) -> None:
    path = archive(tmp_path / "w.pth", START + b"N" * 1_100_000 + b"}" + STOP)
    assert "more instructions" in refusal(path)


def test_an_archive_that_grows(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(50_000_000))
    assert "compressed" in refusal(path)


def test_torchscript_says_so(tmp_path: Path) -> None:
    path = archive(tmp_path / "traced.pth", pickle.dumps({}, 2))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/constants.pkl", b"")
    message = refusal(path)
    assert "TorchScript" in message and "state_dict()" in message
    assert "weights_only" not in message


def test_a_newer_pickle_protocol_says_so(tmp_path: Path, state: State) -> None:
    for zipped in (True, False):
        path = tmp_path / "protocol5.pth"
        torch.save(state, path, pickle_protocol=5, _use_new_zipfile_serialization=zipped)
        message = refusal(path)
        assert "protocol 5" in message and "download" not in message


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_no_model_of_this_size(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"large{suffix}"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)  # sparse: no byte of it is stored
    assert "3.0 GB" in refusal(path)


def tensor_header(**offsets: list[int]) -> bytes:
    table = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": where}
        for name, where in offsets.items()
    }
    return json.dumps(table).encode()


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' * 100_000 + b"0" + b"}" * 100_000,
        tensor_header(a=[0, 8], b=[4, 12]),
        tensor_header(a=[0, 8], b=[2**62, 2**62 + 8]),
        b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}',
        b"[]",
    ],
    ids=["deep", "overlap", "beyond", "overflow", "list"],
)
def test_hostile_safetensors(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "w.safetensors"
    for claimed in (len(header), 2**63, 2**64 - 1, 0):
        path.write_bytes(struct.pack("<Q", claimed) + header + bytes(16))
        assert "truncated or of another kind" in refusal(path)


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"\x1b]52;c;\x07" + "a" * 10_000: 1}, path)
    message = refusal(path)
    assert "\x1b" not in message and len(message) < 1000
