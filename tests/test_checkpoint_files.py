"""The files of torch and safetensors: every number as torch had it, and what is no such file."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from weight_files import State, as_timm, assert_loads, refusal, torch_state


@pytest.fixture(scope="module")
def state() -> State:
    return torch_state(0)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_torch_files(tmp_path: Path, state: State, zipped: bool, protocol: int) -> None:
    path = tmp_path / "weights"
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert_loads(path, state)


@pytest.mark.parametrize("name", ["weights.pt", "weights.onnx", "-", "w.safetensors", "w.PTH.tar"])
def test_the_name_says_nothing(tmp_path: Path, state: State, name: str) -> None:
    torch.save(state, tmp_path / name)
    assert_loads(tmp_path / name, state)
    save_file(as_timm(state), tmp_path / name)
    assert_loads(tmp_path / name, state)


DTYPES = [torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_other_precisions(tmp_path: Path, state: State, form: str, dtype: torch.dtype) -> None:
    path = tmp_path / "weights"
    tensors = {key: tensor.to(dtype) for key, tensor in state.items()}
    if form == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=form == "zip")
    assert_loads(path, tensors)


class Derived(torch.Tensor):
    pass


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_every_view_is_the_same_tensor(tmp_path: Path, state: State, zipped: bool) -> None:
    """Transposed, inside a larger storage, one number for all, Parameters, a derived class."""
    weight, bias = state["classifier.1.weight"], state["classifier.1.bias"]
    noted = torch.nn.Parameter(state["features.18.1.weight"].clone())
    noted.note = "an attribute of its own"  # type: ignore[attr-defined]
    forms = {
        "classifier.1.weight": weight.t().contiguous().t(),
        "classifier.1.bias": torch.stack([-bias, bias, -bias])[1],
        "features.0.0.weight": state["features.0.0.weight"].to(memory_format=torch.channels_last),
        "features.0.1.weight": torch.tensor(1.5).expand(16),
        "features.0.1.bias": torch.arange(64.0)[5::3][:16],
        "features.18.0.weight": torch.nn.Parameter(state["features.18.0.weight"]),
        "features.18.1.weight": noted,
        "features.18.1.bias": state["features.18.1.bias"].as_subclass(Derived),
        "empty.step": torch.zeros(0, 3),
    }
    path = tmp_path / "weights.pth"
    torch.save(state | forms, path, _use_new_zipfile_serialization=zipped)
    assert_loads(path, state | forms)


def test_one_storage_for_all(tmp_path: Path, state: State) -> None:
    flat = torch.cat([tensor.flatten().float() for tensor in state.values()])
    views, start = {}, 0
    for key, tensor in state.items():
        views[key] = flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    torch.save(views, tmp_path / "w.pth")
    assert_loads(tmp_path / "w.pth", state)
    assert (tmp_path / "w.pth").stat().st_size < 5 * flat.numel()


def test_the_highest_byte_first(tmp_path: Path, state: State) -> None:
    """As torch.save writes it on such a machine."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer) as little, zipfile.ZipFile(tmp_path / "w.pth", "w") as big:
        for name in little.namelist():
            content = little.read(name)
            if "/data/" in name:
                width = 4 if len(content) != 8 else 8  # the counters alone are of 8 bytes
                content = np.frombuffer(content, f"<u{width}").astype(f">u{width}").tobytes()
            big.writestr(name, b"big" if name.endswith("byteorder") else content)
    assert_loads(tmp_path / "w.pth", state)


def write_shards(folder: Path, state: State, write: Callable[[State, Path], object]) -> Path:
    places: dict[str, str] = {}
    for number in (1, 2):
        part = {key: t for i, (key, t) in enumerate(state.items()) if i % 2 == number % 2}
        write(part, folder / f"model-{number}-of-2.safetensors")
        places |= dict.fromkeys(part, f"model-{number}-of-2.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_shards(tmp_path: Path, state: State) -> None:
    index = write_shards(tmp_path, as_timm(state), save_file)
    assert_loads(index, state)
    shard = tmp_path / "model-2-of-2.safetensors"
    shard.unlink()
    assert "cannot be opened" in refusal(index, named=shard)
    assert_loads(write_shards(tmp_path, state, torch.save), state)


@pytest.mark.parametrize(
    "name", ["../w.safetensors", "/w.safetensors", "a\\b.safetensors", "", "x"]
)
def test_shards_are_beside_their_index(tmp_path: Path, state: State, name: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    save_file(state, tmp_path / "w.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state, name)}))
    assert "no file of tensors beside it" in refusal(index)


def test_an_index_that_is_wrong(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    for weight_map, text in (
        ({"b": "w.safetensors"}, "has no b"),
        ({"a": 1}, "Expected `str`"),
        ({f"{n}": f"{n}.pth" for n in range(200)}, "200 files"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        assert text in refusal(index)
    again = tmp_path / "again.pth"
    again.write_text(json.dumps({"weight_map": {"a": again.name}}))
    assert "of another kind" in refusal(again)


KINDS = {
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(99),
    "a web page": b"\n<!DOCTYPE html><html>404",
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    "TensorFlow Lite": b"\x1c\0\0\0TFL3" + bytes(99),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(99),
    "ONNX": b"\x08\x08\x12\x07pytorch\x1a\x05" + bytes(99),
    "unpack it": b"\x1f\x8b\x08" + bytes(99),
    "a tar archive": bytes(257) + b"ustar\x0000" + bytes(300),
    "are empty": b"",
    "of another kind": b"hello world",
    "a pickle that torch.save did not write": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("text", KINDS)
def test_file_of_another_kind(tmp_path: Path, text: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(KINDS[text])
    assert text in refusal(path)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("model/constants.pkl", "torch.jit.load(FILE).state_dict()"),
        ("model/archive_format", "torch.export.load(FILE).state_dict"),
        ("model.weights.h5", "a Keras model"),
        ("holiday.txt", "that torch.save did not write"),
    ],
)
def test_archives_of_another_kind(tmp_path: Path, entry: str, text: str) -> None:
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(entry, b"")
    assert text in refusal(path)


def test_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "traced.pth"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    message = refusal(path)
    assert "TorchScript" in message and "weights_only" not in message


def test_missing_file_and_directory(tmp_path: Path) -> None:
    path = tmp_path / "nowhere"
    assert "check the path" in refusal(path)
    path.mkdir()
    assert "Is a directory" in refusal(path)
    path.rmdir()
    os.mkfifo(path)  # nobody will ever write into it
    assert "not an ordinary file" in refusal(path)


@pytest.mark.parametrize("kept", [0.001, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_truncated_file(tmp_path: Path, state: State, kind: str, kept: float) -> None:
    path = tmp_path / "weights"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert "truncated" in refusal(path)


def test_a_flipped_bit_in_an_archive(tmp_path: Path, state: State) -> None:
    path = tmp_path / "w.pth"
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "CRC" in refusal(path)


@pytest.mark.parametrize("content", [[1, 2], 3.0, {}, {"a": 1}, {"a": {"b": 2}}, {0: 0}])
def test_no_tensors(tmp_path: Path, content: object) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    assert "torch.save(model.state_dict(), ...)" in refusal(path)


@pytest.mark.parametrize("head", [b"", b"PK\x03\x04"])
def test_a_file_that_is_no_model_of_this_size(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(3 * 2**30)  # sparse: no byte of it is stored
    assert "3.0 GB" in refusal(path)
