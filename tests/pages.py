"""README.md and the pages of docs/ as tests read them: blocks of code, links, anchors."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """Code between fences."""

    section: str  # the heading above it
    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks in their order."""
    found, text = [], page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        headings = _HEADING.findall(_without_blocks(text[: match.start()]))
        found.append(Block(headings[-1] if headings else "", match[1], match[2]))
    return found


def anchors(page: Path) -> set[str]:
    """What `#...` may lead to: the headings, as GitHub spells them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_without_blocks(page.read_text(encoding="utf-8"))):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        same = (f"{name}-{number}" if number else name for number in range(99))
        found.add(next(one for one in same if one not in found))
    return found


def relative_links(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Each link within the repository: as it is written, its file, and its anchor or nothing."""
    for link in _LINK.findall(_without_blocks(page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            yield link, (page.parent / path).resolve() if path else page, anchor


def _without_blocks(text: str) -> str:
    return _BLOCK.sub("", text)
