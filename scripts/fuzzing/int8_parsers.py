"""The parser of quantised networks, of which a small one is whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from inputs import as_text, from_values
from mutate import to_json
from sandbox import Parse, Parser

from mnv2_tvm.images import MEAN, STD
from mnv2_tvm.layer import Layer
from mnv2_tvm.quantise.convert import quantise
from mnv2_tvm.quantise.files import checksum, encode, read
from mnv2_tvm.quantise.float_network import FloatLayer
from mnv2_tvm.quantise.pixels import Pixels
from mnv2_tvm.quantise.ranges import calibrate


def _whole() -> bytes:
    """A stem, a residual layer, a mean and a classifier."""
    random = np.random.default_rng(0)

    def layer(name: str, shape: Layer, *reads: str) -> FloatLayer:
        if shape.weight_shape is None:
            return FloatLayer(name, shape, reads)
        weight, bias = random.standard_normal(shape.weight_shape), np.ones(shape.out_channels)
        return FloatLayer(name, shape, reads, weight, bias)

    layers = (
        layer("a", Layer.of("conv", 1, 6, 6, 3, 8, 2), "input"),
        layer("b", Layer.of("pwconv", 1, 3, 3, 8, 8, epilogue="residual"), "a", "a"),
        layer("c", Layer.of("avgpool", 1, 3, 3, 8, 8, epilogue="linear"), "b"),
        layer("d", Layer.of("pwconv", 1, 1, 1, 8, 2, epilogue="linear"), "c"),
    )
    images = random.standard_normal((2, 6, 6, 3)).astype(np.float32)
    return encode(quantise(layers, calibrate(layers, [images]), Pixels.of(MEAN, STD)))


def _parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header, with its description of the network as values, and the numbers."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"]["network"] = json.loads(header["__metadata__"]["network"])
    return header, content[start:]


def _with_right_sum(header: Any, numbers: bytes) -> bytes:
    """The file of a header that may be anything; where it has a checksum, it is right."""
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if isinstance(metadata, dict) and "network" in metadata:
        text = as_text(to_json(metadata["network"]))
        metadata = metadata | {"network": text, "sha256": checksum(text, numbers)}
        header = header | {"__metadata__": metadata}
    data = to_json(header)
    return len(data).to_bytes(8, "little") + data + numbers


def _parser() -> Parser:
    whole = _whole()
    header, numbers = _parts(whole)

    def opened(folder: Path) -> Parse:
        def parse(data: bytes) -> None:
            (folder / "q.safetensors").write_bytes(data)
            read(folder / "q.safetensors")

        return parse

    make = from_values(lambda tree: _with_right_sum(tree, numbers), header)
    return Parser("int8 .safetensors", make, opened, (whole,))


PARSERS = [_parser()]
