"""PNG files without the texts that may lie in them."""

from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_BYTES = 100_000_000  # of what is left: it is held beside the picture
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")


def without_texts(stream: BinaryIO) -> bytes:
    """The chunks of a PNG but for its texts, which Pillow refuses where they are very long.

    Raises ValueError where `stream` holds no PNG, or one of more than MAX_BYTES.
    """
    kept = bytearray(stream.read(len(SIGNATURE)))
    if kept != SIGNATURE:
        raise ValueError("not a PNG")
    while len(head := stream.read(8)) == 8:
        rest = int.from_bytes(head[:4], "big") + 4  # data and checksum
        if head[4:] in _TEXTS:
            stream.seek(rest, 1)
            continue
        kept += head + stream.read(min(rest, MAX_BYTES))
        if len(kept) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes beside its texts")
    return bytes(kept)
