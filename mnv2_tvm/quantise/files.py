"""A quantised network as one .safetensors file: the same network gives the same bytes anywhere.

Its metadata say which definition of the numbers it is of, and hold the layers and the scales of
the tensors as JSON; the tensors of the file are LAYER.weight (int8), LAYER.bias (int32) and
LAYER.scale (float32). A checksum covers both.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from mnv2_tvm.errors import UserError, printable
from mnv2_tvm.files import write_whole
from mnv2_tvm.layer import Layer
from mnv2_tvm.model.safetensors_files import open_safetensors
from mnv2_tvm.quantise.bounds import LARGEST_SCALE, fault
from mnv2_tvm.quantise.network import QuantisedLayer, QuantisedNetwork
from mnv2_tvm.quantise.pixels import Pixels
from mnv2_tvm.quantise.scheme import VERSION, Quantisation
from mnv2_tvm.quantise.structure import misfit
from mnv2_tvm.untrusted import convert, decode_json, parse_json, read_bytes

FORMAT = "mnv2_tvm int8"

_MAX_BYTES = 512 * 2**20  # width 1.4 with a classifier for 100 000 classes has 180 MiB
_LEAVES = {"weight": ("I8", "<i1"), "bias": ("I32", "<i4"), "scale": ("F32", "<f4")}
_AGAIN = "quantise the network again, or give the file that --save-quantised wrote"

_Text = Annotated[str, Meta(min_length=1, max_length=200)]
_Channels = Annotated[list[Annotated[float, Meta(ge=-1e6, le=1e6)]], Meta(max_length=16)]
_Deviations = Annotated[list[Annotated[float, Meta(ge=1e-6, le=1e6)]], Meta(max_length=16)]


class _Tensor(msgspec.Struct):
    scale: Annotated[float, Meta(gt=0, le=LARGEST_SCALE)]
    zero_point: Annotated[int, Meta(ge=0, le=255)]


class _Layer(msgspec.Struct):
    name: _Text
    layer: _Text
    reads: Annotated[list[_Text], Meta(min_length=1, max_length=2)]


class _Network(msgspec.Struct):
    mean: _Channels
    std: _Deviations
    layers: Annotated[list[_Layer], Meta(max_length=10_000)]
    tensors: dict[str, _Tensor]
    about: dict[str, Any]


class _Metadata(msgspec.Struct):
    format: str = ""
    version: str = ""
    network: str = ""
    sha256: str = ""


def save(path: Path, network: QuantisedNetwork) -> None:
    """Write the file, whole or not at all. Raises UserError where it cannot be written."""
    try:
        write_whole(path, encode(network))
    except OSError as error:
        raise UserError(
            f"quantised network {path} cannot be written ({error.strerror or error}); give a path "
            "in a folder that exists and can be written"
        ) from error


def read(path: Path) -> QuantisedNetwork:
    """The network of a file, of which nothing is believed: its numbers are safe to compute with.

    Raises UserError where it is missing, damaged, of another kind or of another definition.
    """
    what = f"quantised network {path}"
    return decode(read_bytes(path, what, _MAX_BYTES), what)


def encode(network: QuantisedNetwork) -> bytes:
    """The bytes of the file."""
    arrays = _arrays(network)
    data, entries = bytearray(), {}
    for key in sorted(arrays, key=lambda key: (-arrays[key].itemsize, key)):  # so all are aligned
        array, start = arrays[key], len(data)
        data += array.tobytes()
        kind = _LEAVES[key.rpartition(".")[2]][0]
        entries[key] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [start, len(data)],
        }
    text = network_text(network)
    metadata = {"format": FORMAT, "version": str(VERSION), "network": text}
    metadata["sha256"] = checksum(text, bytes(data))
    header = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + bytes(data)


def decode(content: bytes, what: str) -> QuantisedNetwork:
    """The network in the bytes of a file; `what` names it in a UserError."""
    try:
        checkpoint = open_safetensors(io.BytesIO(content), len(content))
    except ValueError as error:
        raise UserError(f"{what} is no whole file ({printable(error)}); {_AGAIN}") from error
    start = 8 + int.from_bytes(content[:8], "little")
    header = parse_json(content[8:start], what)
    metadata = convert(header.get("__metadata__", {}), _Metadata, what)
    if metadata.format != FORMAT:
        raise UserError(f"{what} holds no network in int8; {_AGAIN}")
    if metadata.version != str(VERSION):
        raise UserError(
            f"{what} is of version {printable(metadata.version, 20)} of the int8 arithmetic, and "
            f"this package computes by version {VERSION}; quantise the network again"
        )
    if metadata.sha256 != checksum(metadata.network, content[start:]):
        raise UserError(f"{what} is damaged: its checksum is another; {_AGAIN}")
    arrays = {}
    for key, tensor in checkpoint.tree.items():
        entry, leaf = header[key], key.rpartition(".")[2]
        if leaf not in _LEAVES or entry["dtype"] != _LEAVES[leaf][0]:
            raise UserError(f"{what}: {printable(key)} is no tensor of such a file; {_AGAIN}")
        begin, end = (start + offset for offset in entry["data_offsets"])
        dtype = np.dtype(_LEAVES[leaf][1])
        flat = np.frombuffer(content[begin:end], dtype).astype(dtype.newbyteorder("="))
        arrays[key] = flat.reshape(tensor.shape)
    return _network(decode_json(metadata.network, _Network, what), arrays, what)


def _network(told: _Network, arrays: dict[str, NDArray[Any]], what: str) -> QuantisedNetwork:
    left = dict(arrays)
    layers = tuple(
        QuantisedLayer(
            layer.name,
            _layer(layer.layer, what),
            tuple(layer.reads),
            *(left.pop(f"{layer.name}.{leaf}", None) for leaf in _LEAVES),
        )
        for layer in told.layers
    )
    tensors = {
        name: Quantisation(float(np.float32(tensor.scale)), tensor.zero_point)
        for name, tensor in told.tensors.items()
    }
    pixels = Pixels.of(np.array(told.mean), np.array(told.std))
    network = QuantisedNetwork(pixels, layers, tensors, told.about)
    wrong = f"{printable(next(iter(left)))} is of no layer" if left else misfit(network)
    if (wrong := wrong or fault(network)) is not None:
        raise UserError(f"{what}: {printable(wrong, 500)}; {_AGAIN}")
    return network


def _layer(name: str, what: str) -> Layer:
    try:
        return Layer.parse(name)
    except UserError as error:
        raise UserError(f"{what}: {printable(error)}; {_AGAIN}") from error


def _arrays(network: QuantisedNetwork) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for layer in network.layers:
        parts = (layer.weight, layer.bias, layer.scales)
        for (leaf, (_, dtype)), array in zip(_LEAVES.items(), parts, strict=True):
            if array is not None:
                arrays[f"{layer.name}.{leaf}"] = np.ascontiguousarray(array, dtype)
    return arrays


def network_text(network: QuantisedNetwork) -> str:
    """Everything but the numbers of the weights, as JSON."""
    told = {
        "mean": network.pixels.mean,
        "std": network.pixels.std,
        "layers": [
            {"name": layer.name, "layer": layer.layer.name, "reads": layer.reads}
            for layer in network.layers
        ],
        "tensors": {
            name: {"scale": tensor.scale, "zero_point": tensor.zero_point}
            for name, tensor in network.tensors.items()
        },
        "about": network.about,
    }
    return json.dumps(told, separators=(",", ":"))


def checksum(text: str, data: bytes) -> str:
    """Of the JSON and of the numbers behind the header."""
    digest = hashlib.sha256(text.encode("utf-8", errors="surrogatepass"))
    digest.update(data)
    return digest.hexdigest()
