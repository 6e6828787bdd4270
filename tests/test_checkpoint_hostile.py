"""Hostile checkpoint files: nothing in them runs, and each is refused or read at once."""

import copyreg
import io
import json
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from weight_files import TINY, assert_loads, refusal, torch_state

from mnv2_tvm.errors import UserError
from mnv2_tvm.model import Architecture, read_weights
from mnv2_tvm.model.pickle_machine import Made, read_pickle
from mnv2_tvm.model.torch_values import CALLS, storage_of


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return torch_state(0)


def archive(path: Path, program: bytes, **entries: bytes) -> Path:
    """A file as torch.save writes it, with `program` as its pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program)
        for name, content in entries.items():
            file.writestr(f"archive/data/{name}", content)
    return path


def old(path: Path, program: bytes) -> Path:
    """The same without an archive, as torch saved until version 1.6."""
    buffer = io.BytesIO()
    torch.save({}, buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(buffer.getvalue().replace(pickle.dumps({}, 2), program, 1))
    return path


def text(characters: str) -> bytes:
    encoded = characters.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


START, STOP = b"\x80\x04", b"."


class New:
    def __new__(cls, *arguments: object, **options: object) -> Any:
        Path("ran").touch()
        return super().__new__(cls)


class State:
    def __setstate__(self, state: object) -> None:
        Path("ran").touch()


class Items:
    def __setitem__(self, key: object, value: object) -> None:
        Path("ran").touch()

    def append(self, value: object) -> None:
        Path("ran").touch()


HERE = f"c{__name__}\n".encode()
TOUCH = text("touch ran")
# pickle.loads touches a file in each of these ways.
RUNNING = {
    "REDUCE": b"cos\nsystem\n" + TOUCH + b"\x85R",
    "dotted name": text("os") + text("path.os.system") + b"\x93" + TOUCH + b"\x85R",
    "INST": b"(" + TOUCH + b"ios\nsystem\n",
    "OBJ": b"(cos\nsystem\n" + TOUCH + b"o",
    "NEWOBJ": HERE + b"New\n" + TOUCH + b"\x85\x81",
    "NEWOBJ_EX": HERE + b"New\n" + TOUCH + b"\x85}\x92",
    "BUILD": HERE + b"State\n)\x81" + TOUCH + b"b",
    "SETITEM": HERE + b"Items\n)\x81" + TOUCH + b"Ns",
    "APPEND": HERE + b"Items\n)\x81" + TOUCH + b"a",
    "EXT1": b"\x82\xf0" + TOUCH + b"\x85R",
    "getattr": b"cbuiltins\ngetattr\ncbuiltins\n__import__\n"
    + text("os")
    + b"\x85R"
    + text("system")
    + b"\x86R"
    + TOUCH
    + b"\x85R",
    "from_type": b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\ncbuiltins\nint\n"
    + TOUCH
    + b"\x85NtR",
}


@pytest.fixture
def witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that is touched where something runs."""
    monkeypatch.chdir(tmp_path)
    copyreg.add_extension("os", "system", 0xF0)
    yield tmp_path / "ran"
    copyreg.remove_extension("os", "system", 0xF0)


@pytest.mark.parametrize("way", RUNNING)
def test_nothing_runs(tmp_path: Path, witness: Path, state: dict[str, Any], way: str) -> None:
    program = START + RUNNING[way]
    for write in (archive, old):
        refusal(write(tmp_path / "w.pth", program + STOP))
    # The same beside the weights: they are read, and nothing else happens.
    torch.save(state, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as file:
        for name, content in entries.items():
            both = program + b"0" + content if name.endswith("data.pkl") else content
            file.writestr(name, both)
    assert_loads(tmp_path / "w.pth", state)
    assert not witness.exists()
    try:
        pickle.loads(program + STOP)
    except (TypeError, AttributeError):
        assert way == "from_type"  # it runs before the answer is found to be no tensor
    assert witness.exists(), "the file was harmless, so this test proved nothing"


def test_objects_are_records() -> None:
    made = read_pickle(io.BytesIO(pickle.dumps(Path("a"))), CALLS, storage_of)
    assert isinstance(made, Made)
    assert (made.name, made.arguments) == ("pathlib.PosixPath", ("a",))


DOUBLED = b")" + b"\x94h\x00\x86" * 40  # a tuple of itself, 40 times: hashed in 2^40 steps


def doubled(inner: bytes, before: bytes, after: bytes) -> bytes:
    """A value that holds the one before it twice, 40 times: walked in 2^40 steps."""
    program = inner
    for index in range(40):
        program += b"q" + bytes([index]) + b"0" + before
        program += b"(" + text("a") + b"h" + bytes([index]) + text("b") + b"h" + bytes([index])
        program += b"u" + after
    return program


MODULE = b"ctorch\nModule\n)\x81}" + text("_parameters") + b"}s" + text("_modules") + b"}"
# Each keeps torch or a plain reader busy for minutes, takes all memory or kills the process.
BOMBS = {
    "a long name": b"c" + b"a" * 300_000 + b"\nb\n",
    "a key of tuples": b"}(" + DOUBLED + b"Nu",
    "a set of tuples": b"\x8f(" + DOUBLED + b"\x90",
    "a deep tuple": b"}(" + b")" + b"\x85" * 390_000 + b"Nu",
    "deep lists": b"]" * 190_000 + b"a" * 189_999,
    "a list in itself": b"]\x94h\x00a",
    "dicts in dicts": doubled(b"}", b"}", b""),
    "modules in modules": doubled(MODULE + b"sb", MODULE, b"sb"),
    "parts with long names": b"".join(MODULE + text(str(n) + "n" * 900) for n in range(500))
    + MODULE
    + b"sb"
    + b"ssb" * 500,
    "modules of one part": b"ctorch\nModule\n)\x81}"
    + text("_modules")
    + b"}s"
    + text("_parameters")
    + b"}("
    + b"".join(text(str(n)) + b"N" for n in range(50_000))
    + b"usbq\x000}("
    + b"".join(
        text(str(n))
        + b"ctorch\nModule\n)\x81}"
        + text("_parameters")
        + b"}s"
        + text("_modules")
        + b"}"
        + text("a")
        + b"h\x00ssb"
        for n in range(2000)
    )
    + b"u",
    "keys that collide": b"}("
    + b"".join(
        b"\x8a\x0c" + (n * (2**61 - 1)).to_bytes(12, "little") + b"N" for n in range(100_000)
    )
    + b"u",
    "a long key": b"}" + text("k" * 10_000_000) + b"Ns",
    "a size": b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R",
    "another codec": b"c_codecs\nencode\n" + text("a") + text("hex") + b"\x86R",
    "a memo of 2^32": b"Nr\xff\xff\xff\xff",
    "a memo of many digits": b"Np" + b"9" * 4000 + b"\n",
    "digits": b"I" + b"9" * 1_000_000 + b"\n",
    "a frame": b"\x95" + bytes([255] * 7) + b"\x0fN",
    "a text of 2^62": b"\x8d" + struct.pack("<Q", 2**62) + b"a",
    "bytes of 2^62": b"\x96" + struct.pack("<Q", 2**62) + b"a",
    "a number of 2^31 bytes": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"a",
    "marks": b"(" * 390_000,
    "many instructions": b"N" * 500_000,
    "many networks": b"}("
    + b"".join(
        text(f"{n}.conv_stem.weight") + b"ctorch._utils\n_rebuild_sparse_tensor\n)R"
        for n in range(20_000)
    )
    + b"u",
    "a call of text": text("a" * 300_000) + b")R",
    "takes what is not there": b"000h\x07",
    "no end": b"}",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_at_once(tmp_path: Path, bomb: str) -> None:
    end = b"" if bomb == "no end" else STOP
    path = archive(tmp_path / "bomb.pth", START + BOMBS[bomb] + end)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    assert len(refusal(path)) < 1000
    assert time.monotonic() - start < 5
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < 300


def test_a_class_with_brackets_in_its_name(tmp_path: Path) -> None:
    """torch's own reader searches such a name with an expression that takes minutes."""
    storage = text("storage") + b"ctor" + b"[" * 100 + b"\nX\n" + text("0") + text("cpu") + b"K\x01"
    path = archive(tmp_path / "w.pth", START + b"(" + storage + b"tQ" + STOP)
    start = time.monotonic()
    assert "a reference to something that is no tensor" in refusal(path)
    assert time.monotonic() - start < 1


class Told:
    """What a persistent id says."""

    def __init__(self, *told: object) -> None:
        self.told = told


class Claimed:
    """A tensor that is what the file says."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return (torch._utils._rebuild_tensor_v2, self.arguments)


class Writer(pickle.Pickler):
    def persistent_id(self, value: object) -> Any:
        return value.told if isinstance(value, Told) else None


STEM = "features.0.0.weight"  # [16, 3, 3, 3]: 432 numbers
SHAPE, STRIDES = (16, 3, 3, 3), (27, 9, 3, 1)


def claim(path: Path, state: dict[str, Any], stem: Claimed) -> Path:
    """A file with the weights of `state`, of which the stem is as it is claimed to be."""
    tensors: dict[str, Claimed] = {}
    contents: dict[str, bytes] = {}
    for index, (key, tensor) in enumerate(state.items()):
        if tensor.is_floating_point():
            told = Told("storage", torch.FloatStorage, str(index), "cpu", tensor.numel())
            tensors[key] = Claimed(told, 0, tuple(tensor.shape), tensor.stride(), False, {})
            contents[str(index)] = tensor.numpy().tobytes()
    buffer = io.BytesIO()
    Writer(buffer, 2).dump(tensors | {STEM: stem})
    return archive(path, buffer.getvalue(), **contents)


def storage(key: object = "0", kind: object = torch.FloatStorage) -> Told:
    return Told("storage", kind, key, "cpu", 432)


def test_a_claim_that_is_true(tmp_path: Path, state: dict[str, Any]) -> None:
    stem = Claimed(storage(), 0, SHAPE, STRIDES, False, {})
    assert_loads(claim(tmp_path / "w.pth", state, stem), state)
    stem = Claimed(storage(), 431, SHAPE, (0, 0, 0, 0), False, {})
    last = state[STEM].flatten()[431].expand(SHAPE)
    assert_loads(claim(tmp_path / "w.pth", state, stem), state | {STEM: last})


CLAIMS = {
    "beyond by an offset": (storage(), 1, SHAPE, STRIDES),
    "beyond by far": (storage(), 2**39, SHAPE, STRIDES),
    "beyond by a stride": (storage(), 0, SHAPE, (28, 9, 3, 1)),
    "beyond all numbers": (storage(), 2**63, SHAPE, (2**62,) * 4),
    "before": (storage(), -1, SHAPE, STRIDES),
    "backwards": (storage(), 431, SHAPE, (-27, -9, -3, -1)),
    "no numbers": (storage(), 0, ("16", 3, 3, 3), STRIDES),
    "other dimensions": (storage(), 0, SHAPE, STRIDES[1:]),
    "many dimensions": (storage(), 0, (1,) * 100, (1,) * 100),
    "no storage": ("0", 0, SHAPE, STRIDES),
    "another storage": (storage("nothing"), 0, SHAPE, STRIDES),
    "another entry": (storage("../data.pkl"), 0, SHAPE, STRIDES),
    "a key of a number": (storage(0), 0, SHAPE, STRIDES),
    "another type": (storage("0", torch.DoubleStorage), 0, SHAPE, STRIDES),
    "no type": (storage("0", torch.FloatTensor), 0, SHAPE, STRIDES),
    "nothing": (),
}


@pytest.mark.parametrize("what", CLAIMS)
def test_false_claims(tmp_path: Path, state: dict[str, Any], what: str) -> None:
    path = claim(tmp_path / "w.pth", state, Claimed(*CLAIMS[what], False, {}))
    assert "truncated or of another kind" in refusal(path)


def test_a_small_storage_that_claims_gigabytes(tmp_path: Path, state: dict[str, Any]) -> None:
    """The shape is what --classes asks for, 2 GB; strides of 0 make it of one number."""
    classes = 400_000  # the most that an architecture may have, nearly
    path = tmp_path / "w.pth"
    head = {
        "classifier.1.weight": torch.zeros(1).expand(classes, 1280),
        "classifier.1.bias": torch.zeros(1).expand(classes),
    }
    torch.save(state | head, path)
    assert "numbers" in refusal(path, Architecture(0.35, 32, classes=classes))


def test_a_large_storage_is_not_read_for_a_small_view(
    tmp_path: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, large = tmp_path / "w.pth", torch.zeros(2**20)
    viewed = state | {STEM: large[:432].view(SHAPE)}
    monkeypatch.setattr("mnv2_tvm.model.checkpoint._MAX_READ", 2**22)
    for zipped in (True, False):
        torch.save(viewed, path, _use_new_zipfile_serialization=zipped)
        assert "views of more bytes" in refusal(path)
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        assert_loads(path, state)


def test_an_archive_that_grows(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(50_000_000))
    assert "compressed" in refusal(path)


def test_entries_that_overlap(tmp_path: Path, state: dict[str, Any]) -> None:
    """The list names one entry again and again, under other names."""
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({}, 2))
        file.writestr("archive/data/0", bytes(1_000_000))
        whole = file.infolist()[1]
        for index in range(1, 1000):
            twin = zipfile.ZipInfo(f"archive/data/{index}")
            twin.header_offset = whole.header_offset
            twin.file_size = twin.compress_size = whole.file_size
            twin.CRC = whole.CRC
            file.filelist.append(twin)
    assert "overlap" in refusal(path)


def test_a_list_of_entries_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({}, 2))
        file.filelist += file.filelist * 80_000
    start = time.monotonic()
    assert "a list of entries" in refusal(path)
    assert time.monotonic() - start < 1


def tensor_header(**offsets: list[int]) -> bytes:
    table = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": where}
        for name, where in offsets.items()
    }
    return json.dumps(table).encode()


HEADERS = {
    "deep": b'{"a":' * 100_000 + b"0" + b"}" * 100_000,
    "overlap": tensor_header(a=[0, 8], b=[4, 12]),
    "hole": tensor_header(a=[0, 4], b=[8, 16]),
    "not filled": tensor_header(a=[0, 8]),
    "beyond": tensor_header(a=[0, 8], b=[2**62, 2**62 + 8]),
    "backwards": tensor_header(a=[8, 0], b=[8, 16]),
    "overflow": b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}',
    "negative": b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,16]}}',
    "dimensions": b'{"a":{"dtype":"F32","shape":[2,2,1,1,1,1,1,1,1],"data_offsets":[0,16]}}',
    "metadata": b'{"__metadata__":[],"a":7}',
    "list": b"[]",
}


@pytest.mark.parametrize("what", HEADERS)
def test_hostile_safetensors(tmp_path: Path, what: str) -> None:
    path, header = tmp_path / "w.safetensors", HEADERS[what]
    for claimed in (len(header), 2**31, 2**63, 2**64 - 1, 0):
        path.write_bytes(struct.pack("<Q", claimed) + header + bytes(16))
        assert "truncated or of another kind" in refusal(path)


def test_names_cannot_steer_the_terminal(tmp_path: Path, state: dict[str, Any]) -> None:
    path = tmp_path / "w.pth"
    bad = "\x1b]52;c;\x07" + "a" * 500
    for content in (
        {bad: torch.ones(1)},
        {bad: state, "model": {}},
        {"m": state | {bad: state[STEM]}},
    ):
        torch.save(content, path)
        try:
            said = "".join(read_weights(path, TINY, "no").source)
        except UserError as error:
            said = str(error)
        assert "\x1b" not in said and len(said) < 1000
