"""What a search tells: words of devices and linkers as they are, and nothing a terminal obeys."""

import io

import pytest
from rich.console import Console

from mnv2_tvm.search.progress import Progress

WORDS = "no [/system/lib64/libc.so] :smile: [errno] [bold red]"


@pytest.mark.parametrize("terminal", [False, True])
def test_brackets_are_no_markup(terminal: bool) -> None:
    said = io.StringIO()
    with Progress(Console(file=said, width=200, force_terminal=terminal), 60) as progress:
        progress.now(WORDS)
        progress.line(WORDS)
    assert WORDS in said.getvalue()


def test_control_characters_do_not_reach_the_terminal() -> None:
    said = io.StringIO()
    Progress(Console(file=said), 60).line("first\x1b]52;c;x\x07\nsecond")
    assert said.getvalue() == "first ]52;c;x \nsecond\n"
