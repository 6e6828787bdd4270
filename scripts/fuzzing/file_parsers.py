"""Parsers of files: logs, targets, manifests, weights, images, labels and arrays."""

import functools
import io
import json
import math
import tomllib
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from inputs import Make, from_bytes, from_values, json_like, lines_of, toml_like
from mutate import damage, to_json, with_right_sums
from PIL import Image
from sandbox import Parse, Parser

from mnv2_tvm import target as target_module
from mnv2_tvm.data import data_folder
from mnv2_tvm.deploy.loader import load
from mnv2_tvm.deploy.manifest import MANIFEST
from mnv2_tvm.images import load_image
from mnv2_tvm.kernels import default_schedule
from mnv2_tvm.labels import read_labels
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.weights import load_weights
from mnv2_tvm.npy_files import read_input
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.tuning_log import Measurement, Record, TuningLog
from mnv2_tvm.target import Target

_MACHINE = "x86-avx2"
_NAMES = ("f32-avgpool-7x7x320", "f32-dwconv-3x3s2-14x14x96", "f32-pwconv-7x7x96-160-linear")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "AVIF")


def _file(
    name: str, make: Make, parse: Callable[[Path], object], file: str, *sound: bytes
) -> Parser:
    """A parser of a file called `file`."""

    def opened(folder: Path) -> Parse:
        def parse_data(data: bytes) -> object:
            (folder / file).write_bytes(data)
            return parse(folder / file)

        return parse_data

    return Parser(name, make, opened, sound)


def _log_lines() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Records and measurements as the search writes them."""
    machine = Target.load(_MACHINE)
    records, measurements = [], []
    for layer in map(Layer.parse, _NAMES):
        schedule = default_schedule(layer, machine)
        record = Record(layer, 1, schedule, 3.7, (3.5, 3.7, 4.0), 2e-7, {"cpu": "a", "date": "b"})
        records.append(json.loads(record.to_json()))
        timed = Measurement(layer, schedule, 3.7, 2e-7, None)
        failed = Measurement(layer, schedule, None, None, "crash: ended by SIGILL")
        measurements += [timed.to_json(), failed.to_json()]
    return records, measurements


def _read_records(path: Path) -> None:
    machine, log_dir = Target.load(_MACHINE), path.parents[1]
    known = Decisions.load(machine, 1, log_dir)
    known.source(Layer.parse(_NAMES[0]))
    TuningLog.of(machine, log_dir).keep([])


def _read_measurements(path: Path) -> None:
    for measurement in TuningLog(path.parent).measurements():
        str(measurement.failure)
        time = measurement.median_us
        assert time is None or (time > 0 and math.isfinite(time)), f"{time} us passed"


def _in_log(
    name: str, file: str, lines: list[dict[str, Any]], parse: Callable[[Path], object]
) -> Parser:
    good = [json.dumps(line).encode() for line in lines]

    def opened(folder: Path) -> Parse:
        (folder / _MACHINE).mkdir(exist_ok=True)

        def parse_data(data: bytes) -> object:
            path = folder / _MACHINE / file
            path.write_bytes(data)
            return parse(path)

        return parse_data

    return Parser(name, lines_of(json_like(*lines), *good), opened, (b"\n".join(good),))


def _targets() -> Parser:
    names = ("x86-avx2", "rasp4-32", "cortex-m7")
    texts = [(data_folder("targets") / f"{name}.toml").read_bytes() for name in names]
    alias = {"best_of": ["x86-avx2"]}

    def opened(folder: Path) -> Parse:
        there = data_folder("targets")
        (folder / "x86-avx2.toml").write_bytes((there / "x86-avx2.toml").read_bytes())
        target_module.data_folder = lambda _: folder  # type: ignore[assignment,attr-defined]

        def parse(data: bytes) -> None:
            (folder / "fuzzed.toml").write_bytes(data)
            Target.load("fuzzed").codegen()

        return parse

    make = toml_like(*(tomllib.loads(text.decode()) for text in texts), alias)
    return Parser("target TOML", make, opened, tuple(texts))


def manifest_parser(built: Path) -> Parser:
    """Of the `manifest.json` in a folder that `build` wrote, to the library beside it."""
    whole = (built / MANIFEST).read_bytes()

    def opened(folder: Path) -> Parse:
        for path in built.iterdir():
            if path.is_file():
                (folder / path.name).symlink_to(path.resolve())

        def parse(data: bytes) -> None:
            (folder / MANIFEST).unlink()
            (folder / MANIFEST).write_bytes(data)
            load(folder)

        return parse

    return Parser("manifest.json", json_like(json.loads(whole)), opened, (whole,))


_NETWORK = Architecture(0.35, 32, classes=10)


@functools.cache
def _tensors() -> dict[str, torch.Tensor]:
    """A whole state that is small: each tensor is a view of one number.

    So most of a mutant's bytes are names, shapes, strides and the instructions between them, and
    what is not damaged goes through all the checks behind them.
    """
    one = torch.ones(1)
    shapes = _NETWORK.state_shapes().items()
    return {key: one.expand(shape) if shape else torch.tensor(7) for key, shape in shapes}


def _safetensors(tree: dict[str, Any]) -> bytes:
    """The file of a header; the tensors of the whole one fill it."""
    header, whole = to_json(tree), _header().values()
    filled = max(entry["data_offsets"][1] for entry in whole)
    return len(header).to_bytes(8, "little") + header + bytes(filled)


@functools.cache
def _header() -> dict[str, Any]:
    header: dict[str, Any] = {}
    end = 0
    for key, shape in _NETWORK.state_shapes().items():
        count = 2 * math.prod(shape)
        header[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + count]}
        end += count
    return header


def _saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def _whole_checkpoints() -> list[bytes]:
    state = _tensors()
    averaged = {f"module.{key}": tensor for key, tensor in state.items()}
    nested = {"epoch": 3, "args": Namespace(lr=0.1), "model": state, "model_ema": averaged}
    return [_saved(state, _use_new_zipfile_serialization=False), _saved(nested)]


def _small_checkpoints() -> list[bytes]:
    """Of a few tensors, which are read faster: refused after the reading at the latest."""
    few = dict(list(_tensors().items())[:6])
    whole = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2))
    beside = {"best_acc1": np.float64(71.9), "args": Namespace(lr=0.1), "net": whole, "model": few}
    old = {"_use_new_zipfile_serialization": False}
    saved = [_saved(beside, pickle_protocol=protocol) for protocol in (0, 2, 5)]
    return [*saved, _saved(few, **old), _saved(beside, **old, pickle_protocol=4)]


def _shards() -> Parser:
    """An index; the files that it names are whole."""
    header = _header()
    places = {key: f"{number % 2}.safetensors" for number, key in enumerate(header)}

    def opened(folder: Path) -> Parse:
        for file in ("0.safetensors", "1.safetensors"):
            (folder / file).write_bytes(_safetensors(header))

        def parse(data: bytes) -> None:
            (folder / "index.json").write_bytes(data)
            _load_weights(folder / "index.json")

        return parse

    index = {"metadata": {"total_size": 7}, "weight_map": places}
    return Parser("index.json", json_like(index), opened, (to_json(index),))


def _checkpoint(wholes: list[bytes]) -> Make:
    """Damaged as bytes, or one file of the archive with a right checksum."""

    def make(random: Random) -> bytes:
        whole = random.choice(wholes)
        if whole[:2] != b"PK" or random.random() < 0.2:
            return damage(whole, random)
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        name = next(name for name in files if name.endswith("data.pkl"))
        name = random.choice((name, name, name, *files))
        files[name] = damage(files[name], random)
        result = io.BytesIO()
        with zipfile.ZipFile(result, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return result.getvalue()

    return make


def _load_weights(path: Path) -> None:
    load_weights(path, _NETWORK)


def _images() -> Parser:
    picture = Image.effect_mandelbrot((40, 30), (-2, -1, 1, 1), 20)
    pictures = [picture.convert(mode) for mode in ("RGB", "P", "1")]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    wholes = []
    for kind in _FORMATS:
        for one in pictures[: 3 if kind in ("PNG", "TIFF", "BMP") else 1]:
            file = io.BytesIO()
            one.save(file, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
            wholes.append(file.getvalue())
    chunked = [whole for whole in wholes if whole[1:4] == b"PNG"]

    def make(random: Random) -> bytes:
        if random.random() < 0.2:
            return with_right_sums(random.choice(chunked), random)
        return damage(random.choice(wholes), random)

    return _file("images", make, lambda path: load_image(path, 32), "image", *wholes)


def _arrays() -> Parser:
    shape = (1, 4, 4, 3)
    wholes = []
    for array in (np.ones(shape, np.float32), np.asfortranarray(np.ones(shape, ">f4"))):
        file = io.BytesIO()
        np.save(file, array)
        wholes.append(file.getvalue())
    file = io.BytesIO()
    np.savez(file, np.ones(shape, np.float32))
    make = from_bytes(*wholes, file.getvalue())
    return _file(".npy", make, lambda path: read_input(path, shape), "x.npy", wholes[0])


def _labels() -> Parser:
    lines, names = b"tench\ngoldfish\ngreat white shark\n", ["tench", "goldfish", "shark"]
    numbered = b"0 tench\n1 goldfish\n2 shark\n"
    from_json = json_like(names, {str(n): name for n, name in enumerate(names)})
    from_lines = from_bytes(lines, numbered, b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n"))

    def make(random: Random) -> bytes:
        return random.choice((from_json, from_lines))(random)

    return _file("labels", make, lambda path: read_labels(path, 3), "labels.txt", lines)


def _parsers() -> list[Parser]:
    records, measurements = _log_lines()
    header = {"__metadata__": {"format": "pt"}, **_header()}
    whole, small = _whole_checkpoints(), _small_checkpoints()
    tensors = _safetensors(header)
    return [
        _in_log("records.jsonl", "records.jsonl", records, _read_records),
        _in_log("measurements.jsonl", "measurements.jsonl", measurements, _read_measurements),
        _targets(),
        _file(".safetensors", from_values(_safetensors, header), _load_weights, "w", tensors),
        _shards(),
        _file(".pth", _checkpoint([*whole, *small]), _load_weights, "w", *whole),
        _images(),
        _labels(),
        _arrays(),
    ]


PARSERS = _parsers()
