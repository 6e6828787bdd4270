"""README.md: its commands run as they are written, in their order, and so do its two programs."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from packages import tool
from pages import PAGES, README, ROOT, Block, anchors, blocks, relative_links

from mnv2_tvm import load
from mnv2_tvm.cli import VERBS
from mnv2_tvm.images import load_image

MOST_LINES = 150
RUN = ("First result", "Use it from Python", "Use it from C")
NOT_RUN = {  # sections whose commands are only looked up, and why
    "Install": "needs a network and rights",
    "Tune this machine": "takes minutes",
    "A board over ssh": "needs a board",
}
USAGE_ERROR = typer.BadParameter.__mro__[1]  # of wrong and of unknown options


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the checkout to the commands; what they write stays in it."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "mnv2_tvm").symlink_to(ROOT / "mnv2_tvm")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"  # the venv is active
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    return folder


def shell(script: str, folder: Path) -> str:
    """What a script prints, which must not fail."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-euc", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, (script, done.stdout, done.stderr)
    return done.stdout


def test_it_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_no_command_is_left_out() -> None:
    """Every block is in a section that is run here, or one that says why not."""
    sections = {block.section for block in blocks(README)}
    assert sections == {*RUN, *NOT_RUN}
    assert {block.language for block in blocks(README)} == {"sh", "python", "c"}


def test_what_it_shows_runs(checkout: Path) -> None:
    """From the first build to the program in C: each block as it is written, in its order."""
    printed = ""
    for block in blocks(README):
        if block.section in RUN:
            printed += _run(block, checkout)
    assert re.search(r"^ *numbers +relative error", printed, re.MULTILINE)  # of `bench`
    best = re.findall(r"^class (\d+)$", printed, re.MULTILINE)  # of Python, then of C
    ranked = re.search(r"^ +1  class (\d+)", printed, re.MULTILINE)  # of `run`
    assert ranked and best == [ranked[1], ranked[1]]
    _check_preprocessing(checkout)
    for block in (block for page in PAGES for block in blocks(page) if block.language == "c"):
        (checkout / "block.c").write_text(block.code, encoding="utf-8")
        shell("cc -fsyntax-only -Wall -Werror -Iout block.c", checkout)


def _run(block: Block, checkout: Path) -> str:
    if block.language == "c":
        (checkout / "classify.c").write_text(block.code, encoding="utf-8")
        return ""
    if block.language == "python":
        kept = f"{block.code}np.save('images.npy', images)\nnp.save('logits.npy', logits)\n"
        (checkout / "block.py").write_text(kept, encoding="utf-8")
        return shell("python block.py", checkout)
    if "cc " in block.code:
        tool("cc")
    return shell(block.code, checkout)


def _check_preprocessing(checkout: Path) -> None:
    """The steps in Python are those of `run`, to the bit."""
    images = np.load(checkout / "images.npy")
    wanted = load_image(ROOT / "mnv2_tvm/samples/cat.jpg", 224)
    np.testing.assert_array_equal(images, wanted)
    logits = np.load(checkout / "logits.npy")
    np.testing.assert_array_equal(logits, load(checkout / "out", threads=1)(wanted))


# Commands of all pages


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command in its blocks of shell, without comments."""
    for block in blocks(page):
        if block.language == "sh":
            for line in block.code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    yield words


def parse(words: list[str]) -> None:
    """Hold the words after `python -m mnv2_tvm.` against the verb's own options; runs nothing."""
    verb, *arguments = words
    assert verb in VERBS, verb
    module = importlib.import_module(
        f"mnv2_tvm.{verb}.__main__" if verb == "model" else f"mnv2_tvm.{verb}"
    )
    main = module.main
    if verbs := getattr(module, "VERBS", None):
        main, arguments = verbs[arguments[0]], arguments[1:]
    app = typer.Typer(add_completion=False)
    app.command()(main)
    typer.main.get_command(app).make_context(verb, arguments)


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_the_commands_exist(page: Path) -> None:
    """Verbs take their options as they are written, and scripts are there to be run."""
    for words in commands(page):
        if words[:2] == ["python", "-m"]:
            parse([words[2].removeprefix("mnv2_tvm."), *words[3:]])
        elif words[0].startswith("scripts/"):
            assert os.access(ROOT / words[0], os.X_OK), words
    named = re.findall(r"`(scripts/[\w./-]+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    "words", [["build", "--no-such"], ["bench", "--threads", "65"], ["tune", "--width", "wide"]]
)
def test_a_wrong_command_is_found(words: list[str]) -> None:
    with pytest.raises(USAGE_ERROR):
        parse(words)


# Links


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_the_links_lead_somewhere(page: Path) -> None:
    links = list(relative_links(page))
    assert links
    for link, path, anchor in links:
        assert path.is_relative_to(ROOT) and path.exists(), link
        assert not anchor or anchor in anchors(path), link


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {path for _, path, _ in relative_links(README)}
    assert PAGES and {page for page in PAGES if page not in linked} == set()
