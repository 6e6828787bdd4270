"""Make all symbols of a relocatable ELF object local but those of an interface.

What `objcopy --keep-global-symbols` does, which the `ziglang` wheel lacks. ELF wants local symbols
before all others, so the symbol table is sorted anew and every relocation's index follows.
"""

import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from mnv2_tvm.errors import UserError

_RELOCATIONS = ("SHT_REL", "SHT_RELA")


def localise(path: Path, keep: Collection[str]) -> None:
    """Rewrite the object `path` in place: only symbols in `keep` and undefined ones stay global.

    Raises UserError for an object with sections that this file cannot renumber.
    """
    content = bytearray(path.read_bytes())
    with path.open("rb") as file:
        elf = ELFFile(file)
        sections = list(elf.iter_sections())
        (table,) = [s for s in sections if isinstance(s, SymbolTableSection)]
        linked = [s for s in sections if s["sh_link"] == elf.get_section_index(table.name)]
        for section in linked:  # those that name symbols by number
            if section["sh_type"] not in _RELOCATIONS:
                raise UserError(f"{path}: section {section.name} cannot be renumbered")
        order, local = _sort(table, keep)
        _write_symbols(content, elf, table, order, local)
        number = {old: new for new, old in enumerate(order)}
        for section in linked:
            _renumber(content, elf, section, number)
    path.write_bytes(content)


def _sort(table: SymbolTableSection, keep: Collection[str]) -> tuple[list[int], int]:
    """Old numbers of the symbols in their new order, and how many of them are local."""
    local: list[int] = []
    others: list[int] = []
    for index, symbol in enumerate(table.iter_symbols()):
        undefined = symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_LOCAL"
        (others if undefined or symbol.name in keep else local).append(index)
    return [*local, *others], len(local)


def _write_symbols(
    content: bytearray, elf: Any, table: SymbolTableSection, order: list[int], local: int
) -> None:
    start, size = table["sh_offset"], table["sh_entsize"]
    old = bytes(content[start : start + table["sh_size"]])
    info = 4 if elf.elfclass == 64 else 12  # st_info: its high half is the binding, 0 for local
    for new, index in enumerate(order):
        entry = bytearray(old[index * size : (index + 1) * size])
        if new < local:
            entry[info] &= 0x0F
        content[start + new * size : start + (new + 1) * size] = entry
    # sh_info of a symbol table is the number of the first symbol that is not local.
    header = elf["e_shoff"] + elf["e_shentsize"] * elf.get_section_index(table.name)
    struct.pack_into(_word(elf), content, header + (44 if elf.elfclass == 64 else 28), local)


def _renumber(content: bytearray, elf: Any, section: Any, number: dict[int, int]) -> None:
    """Let the relocations of a section name the symbols' new numbers."""
    wide = elf.elfclass == 64
    form, shift = ("<Q" if elf.little_endian else ">Q", 32) if wide else (_word(elf), 8)
    start, size = section["sh_offset"], section["sh_entsize"]
    for place in range(start + (8 if wide else 4), start + section["sh_size"], size):
        (info,) = struct.unpack_from(form, content, place)
        kind = info & ((1 << shift) - 1)
        struct.pack_into(form, content, place, number[info >> shift] << shift | kind)


def _word(elf: Any) -> str:
    return "<I" if elf.little_endian else ">I"
