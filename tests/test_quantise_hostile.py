"""Quantised files whose checksum is right and whose content is not."""

import json
import random
from typing import Any

import numpy as np
import pytest
from quantised_networks import quantised

from mnv2_tvm.errors import UserError
from mnv2_tvm.model import Architecture
from mnv2_tvm.quantise import files, reference

TINY = Architecture(0.35, 32, classes=10)
ODD: list[Any] = [None, -1, 0, 1, 255, 1e9, 2**62, 1e-30, "", "input", "pool", [], {}, True]


@pytest.mark.parametrize("seed", range(8))
def test_changed_content_is_told_or_harmless(seed: int) -> None:
    """Of 40 changes each leaves a network that computes without a warning, or one sentence."""
    chance = random.Random(seed)
    images = np.zeros((1, 32, 32, 3), np.uint8)
    told = 0
    for _ in range(40):
        content = json.loads(files.network_text(quantised(TINY)))
        _mutate(content, chance)
        try:
            network = files.decode(_with_text(json.dumps(content)), "q")
        except UserError as error:
            told += 1
            assert str(error).startswith("q: ") and "\n" not in str(error)
            continue
        if network.layers[0].layer.input_shape == images.shape:
            assert np.isfinite(reference.logits(network, images)).all()
    assert told > 10


def _with_text(text: str) -> bytes:
    """The file with another description of its network, and the checksum of that."""
    content = files.encode(quantised(TINY))
    start = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:start]), content[start:]
    header["__metadata__"] |= {"network": text, "sha256": files.checksum(text, data)}
    new = json.dumps(header).encode()
    return len(new).to_bytes(8, "little") + new + data


def _mutate(value: Any, chance: random.Random) -> None:
    """Change one value, or leave one out, anywhere in a tree of dicts and lists."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = chance.choice(keys)
        if isinstance(value[key], dict | list) and value[key] and chance.random() < 0.9:
            value = value[key]
            continue
        if chance.random() < 0.2:
            del value[key]
        else:
            value[key] = chance.choice(ODD)
        return
