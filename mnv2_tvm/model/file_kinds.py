"""What a file is that holds no weights, told from its first bytes."""

HEAD_BYTES = 512

_GIVE = "give the .pth or .safetensors file of the weights"
_KINDS: tuple[tuple[int, tuple[bytes, ...], str, str], ...] = (
    (0, (b"version https://git-lfs",), "a pointer of Git LFS", "fetch the file with git lfs pull"),
    (0, (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*"), "an image", _GIVE),
    (8, (b"WEBP",), "an image", _GIVE),
    (4, (b"ftyp",), "an image or a film", _GIVE),
    (0, (b"\x89HDF\r\n",), "an HDF5 file, as Keras writes it", _GIVE),
    (4, (b"TFL3",), "a model of TensorFlow Lite", _GIVE),
    (4, (b"ET",), "a program of ExecuTorch", _GIVE),
    (0, (b"\x08\x03\x12", b"\x08\x04\x12", b"\x08\x05\x12", b"\x08\x06\x12"), "ONNX", _GIVE),
    (0, (b"\x08\x07\x12", b"\x08\x08\x12", b"\x08\x09\x12", b"\x08\x0a\x12"), "ONNX", _GIVE),
    (0, (b"GGUF",), "GGUF", _GIVE),
    (0, (b"\x93NUMPY",), "an array of numpy", _GIVE),
    (0, (b"\x7fELF",), "a program or library", _GIVE),
    (0, (b"%PDF",), "a PDF", _GIVE),
    (257, (b"ustar",), "a tar archive", "unpack it and give the file of the weights in it"),
    (0, (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"), "compressed", "unpack it first"),
    (0, (b"Rar!", b"7z\xbc\xaf"), "an archive", "unpack it and give the file in it"),
)
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")


def kind_of(head: bytes) -> tuple[str, str] | None:
    """What a file with these first bytes is, and the remedy; None where that is not told."""
    if not head:
        return "empty", "copy or download it again"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return "a web page", "a download gave a page in place of the file: download it again"
    for place, starts, what, remedy in _KINDS:
        if head[place:].startswith(starts):
            return what, remedy
    return None
