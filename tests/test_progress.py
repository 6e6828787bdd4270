"""What a search and other verbs tell: words of devices as they are, nothing a terminal obeys."""

import io
import os
import pty
import subprocess
import sys

import pytest
from rich.console import Console

from mnv2_tvm.measure.progress import Progress

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


def test_a_verb_shows_what_goes_on_on_a_terminal_only() -> None:
    script = "from mnv2_tvm import cli\nwith cli.progress('first') as say: say('then [red]')"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
    ours, theirs = pty.openpty()
    try:
        environment = {**os.environ, "TERM": "xterm"}
        subprocess.run(command, stdout=theirs, stderr=theirs, env=environment, check=True)
        assert "then [red]" in os.read(ours, 2**16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
