"""How large the code of a library is, read back from the ELF file."""

from pathlib import Path

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile


def code_bytes(library: Path) -> int:
    """Bytes of all executable sections."""
    with library.open("rb") as file:
        return sum(
            int(section["sh_size"])
            for section in ELFFile(file).iter_sections()
            if section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR
        )
