"""The machine code of fixed kernels on fixed targets: so a change can show that it changed none.

An intended change writes the hashes anew, in the same commit: python tests/test_object_code.py
"""

import hashlib
import io
import json
import tempfile
from pathlib import Path

import pytest
import tvm
from elftools.elf.elffile import ELFFile

from mnv2_tvm.deploy.link import write_object
from mnv2_tvm.layer import Layer
from mnv2_tvm.passes.lower_kernels import lower_kernels
from mnv2_tvm.pipeline import default_schedule
from mnv2_tvm.target import Target

HASHES = Path(__file__).with_suffix(".json")
TARGETS = ("x86-avx512", "x86-avx2", "rasp4", "rasp4-32", "cortex-m7")
LAYERS = (
    "f32-conv-3x3s2-96x96x3-16",
    "f32-dwconv-3x3s1-14x14x192",
    "f32-dwconv-3x3s2-14x14x200",
    "f32-pwconv-14x14x64-384",
    "f32-pwconv-7x7x336-112-linear",
    "f32-pwconv-7x7x320-56-residual",
    "f32-pwconv-1x1x1280-1000-linear",
    "f32-avgpool-7x7x1280",
    "f32-irb-3x3s1-14x14x64-384-64-residual",
    "f32-irb-3x3s2-12x12x16-96-24-linear",
    "f32-stem-3x3s2-96x96x3-16-8-linear",
)
_ALLOCATED = 2  # SHF_ALLOC: what is loaded, so neither names nor notes of the compiler
_ADDRESSES = (".rela", ".rel", ".eh_frame")


def code_hash(target: Target, layer: Layer) -> str:
    """Of the code and constants of the layer's kernel with its default schedule."""
    kernel = default_schedule(layer, target).emit(layer, target)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "kernel.o"
        write_object(lower_kernels(tvm.IRModule({"kernel": kernel}), target), target, path)
        elf = ELFFile(io.BytesIO(path.read_bytes()))
    digest = hashlib.sha256()
    for section in elf.iter_sections():
        if section["sh_flags"] & _ALLOCATED and not section.name.startswith(_ADDRESSES):
            digest.update(section.name.encode() + section.data())
    return digest.hexdigest()[:16]


def hashes(target: str) -> dict[str, str]:
    """By layer."""
    machine = Target.load(target)
    return {layer: code_hash(machine, Layer.parse(layer)) for layer in LAYERS}


@pytest.mark.parametrize("target", TARGETS)
def test_kernels_are_compiled_to_the_same_code(target: str) -> None:
    assert hashes(target) == json.loads(HASHES.read_text())[target]


if __name__ == "__main__":
    table = {target: hashes(target) for target in TARGETS}
    HASHES.write_text(json.dumps(table, indent=1) + "\n")
