"""Quantised networks as files: the same bytes always, and one sentence for any other file."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantised_networks import quantised
from safetensors import safe_open

from mnv2_tvm.errors import UserError
from mnv2_tvm.model import Architecture
from mnv2_tvm.quantise import files, reference
from mnv2_tvm.quantise.network import QuantisedLayer, QuantisedNetwork
from mnv2_tvm.quantise.scheme import Quantisation

TINY = Architecture(0.35, 32, classes=10)


def test_what_is_read_is_what_was_saved(tmp_path: Path) -> None:
    network, path = quantised(TINY), tmp_path / "q.safetensors"
    files.save(path, network)
    again = files.read(path)
    assert (again.pixels, again.tensors) == (network.pixels, network.tensors)
    assert again.about == {"kind": "mobilenet_v2", "resolution": 32}
    assert files.encode(again) == files.encode(network) == path.read_bytes()
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    logits = [reference.logits(net, images).tobytes() for net in (network, again)]
    assert logits[0] == logits[1]


def test_the_safetensors_package_reads_it(tmp_path: Path) -> None:
    network, path = quantised(TINY), tmp_path / "q.safetensors"
    files.save(path, network)
    with safe_open(path, "np") as file:  # type: ignore[no-untyped-call]
        assert file.metadata()["format"] == files.FORMAT
        for layer in network.layers:
            if layer.weight is not None:
                stored = file.get_tensor(f"{layer.name}.weight")
                assert stored.dtype == np.int8 and (stored == layer.weight).all()
        assert len(file.keys()) == 3 * 53


def test_numbers_lie_where_their_size_wants_them() -> None:
    content = files.encode(quantised(TINY))
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert (8 + length) % 8 == 0
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % (1 if entry["dtype"] == "I8" else 4) == 0


def test_a_cut_or_flipped_byte_is_told() -> None:
    content = files.encode(quantised(TINY))
    random = np.random.default_rng(0)
    places = [*range(0, 64, 7), *random.integers(0, len(content), 60).tolist(), len(content) - 1]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(random.integers(8))
        with pytest.raises(UserError) as raised:
            files.decode(bytes(flipped), "quantised network q")
        assert "\n" not in str(raised.value) and "quantised network q" in str(raised.value)
        with pytest.raises(UserError, match="quantised network q"):
            files.decode(content[:place], "quantised network q")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(90), b"\xff" * 90, bytes(90)])
def test_other_files_are_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "q.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"q\.safetensors"):
        files.read(path)


def test_weights_in_float_are_told() -> None:
    header = json.dumps(
        {"features.0.0.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    ).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(4)
    with pytest.raises(UserError, match="q holds no network in int8; quantise the network again"):
        files.decode(content, "q")


def test_another_version_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "VERSION", 99)
    content = files.encode(quantised(TINY))
    monkeypatch.undo()
    with pytest.raises(UserError, match="of version 99 of the int8 arithmetic"):
        files.decode(content, "q")


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match="quantised network"):
            files.read(path)
    with pytest.raises(UserError, match="cannot be written"):
        files.save(tmp_path / "absent" / "q.safetensors", quantised(TINY))


def _changed(name: str, **values: Any) -> Callable[[QuantisedNetwork], QuantisedNetwork]:
    def change(network: QuantisedNetwork) -> QuantisedNetwork:
        assert name in {layer.name for layer in network.layers}
        layers = (
            replace(layer, **{key: value(layer) for key, value in values.items()})
            if layer.name == name
            else layer
            for layer in network.layers
        )
        return replace(network, layers=tuple(layers))

    return change


def _tensor(name: str, value: Quantisation) -> Callable[[QuantisedNetwork], QuantisedNetwork]:
    def change(network: QuantisedNetwork) -> QuantisedNetwork:
        assert name in network.tensors
        return replace(network, tensors={**network.tensors, name: value})

    return change


def _filled(field: str, value: float) -> Callable[[QuantisedLayer], np.ndarray]:
    return lambda layer: np.full_like(getattr(layer, field), value)


def _enlarged(network: QuantisedNetwork) -> QuantisedNetwork:
    """For an image of 2^17 x 2^17: its weights are the same."""
    layers = list[QuantisedLayer]()
    side = 2**17
    for layer in network.layers[:-1]:
        shape = replace(layer.layer, height=side, width=side)
        layers.append(replace(layer, layer=shape))
        side = shape.out_height
    return replace(network, layers=(*layers, network.layers[-1]))


RESIDUAL, RELU6 = "features.3.conv.2", "features.3.conv.1.0"
HOSTILE: list[tuple[Callable[[QuantisedNetwork], QuantisedNetwork], str]] = [
    (lambda n: replace(n, layers=()), "no layer"),
    (lambda n: replace(n, layers=n.layers[:1] + n.layers[2:]), "reads what no layer before it"),
    (lambda n: replace(n, layers=n.layers[:-1]), "last layer, and no other"),
    (lambda n: replace(n, layers=n.layers[:3] + n.layers[2:]), "two layers are called"),
    (lambda n: replace(n, tensors={}), "scales are not those of its tensors"),
    (lambda n: replace(n, pixels=replace(n.pixels, mean=(0.5,))), "another number of means"),
    (_changed(RELU6, reads=lambda layer: ("nowhere",)), "reads what no layer"),
    (_changed(RESIDUAL, reads=lambda layer: layer.reads[:1]), "reads what no layer"),
    (_changed(RELU6, weight=lambda layer: layer.weight[:4]), "have other shapes"),
    (_changed(RELU6, bias=lambda layer: None), "have other shapes"),
    (_changed("pool", scales=lambda layer: np.ones(1, np.float32)), "have other shapes"),
    (_changed(RELU6, weight=_filled("weight", -128)), "below -127"),
    (_changed(RELU6, bias=_filled("bias", 2**31 - 1)), "do not fit 32 bits"),
    (_changed(RELU6, bias=_filled("bias", -(2**31))), "do not fit 32 bits"),
    (_changed(RELU6, scales=_filled("scales", float("nan"))), "a scale of the weights"),
    (_changed(RELU6, scales=_filled("scales", -1)), "a scale of the weights"),
    (_changed(RELU6, scales=_filled("scales", 2.0**29)), "too small for its weights"),
    (_tensor("pool", Quantisation(2.0**-59, 0)), "pool gives is too small"),
    (_enlarged, "the sums of pool do not fit 32 bits"),
    (_tensor(RESIDUAL, Quantisation(2.0**-59, 0)), "too small for what it adds"),
    (_tensor(RELU6, Quantisation(0.02, 3)), "not bounded by 0 and 6"),
    (_tensor(RELU6, Quantisation(0.03, 0)), "not bounded by 0 and 6"),
    (_tensor(RELU6, Quantisation(2.0**-70, 0)), "the scale of"),
    (_tensor(RELU6, Quantisation(0.02, 256)), "zero_point"),
    (_tensor(RELU6, Quantisation(float("inf"), 0)), "q: "),
]


@pytest.mark.parametrize(("change", "reason"), HOSTILE)
def test_a_network_whose_parts_do_not_fit_is_told(
    change: Callable[[QuantisedNetwork], QuantisedNetwork], reason: str
) -> None:
    """Each change is one that a file with a right checksum may hold."""
    with pytest.raises(UserError, match=reason):
        files.decode(files.encode(change(quantised(TINY))), "q")
