"""The pages hold: their Python runs, prints what they say it prints, and every command is one that the app takes.

Python is executed, a page's blocks in one namespace in a folder of its own; one with a title is that file. Commands of
assay are read by the real command line, whose word on a wrong option is the test's, and then run with a small budget,
unless a comment above the block says why it is `parsed only`.
"""

import contextlib
import io
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from assay.cli.app import app
from assay.web.catalog import entries
from tests.docs.blocks import PAGES, ROOT, Block, blocks, spans

LANGUAGES = {"python", "sh", "console", "text", "toml"}
OTHERS = ("mlflow", "ray", "tensorboard", "torchrun", "wandb")  # programs that pages name with options of theirs
SMALL = {  # put behind what is typed, and so in its place
    "compare": ["--executor", "serial", "--seeds", "2", "--budget", "2steps", "--tune-trials", "2"],
    "plan": ["--executor", "serial", "--seeds", "2", "--budget", "2steps"],
    "check": ["--workers", "1"],
}


def read_by_the_command_line(words: list[str]) -> None:
    """Parse a command as `assay` would, without carrying it out."""
    command = get_command(app)
    context = command.make_context("assay", list(words[1:]))
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


def run(page: Path, block: Block) -> None:
    for words in block.commands():
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
        else:
            assert words[0] == "assay", f"{page.name}:{block.line} has {words[0]!r}, which no test knows"
            read_by_the_command_line(words)
            if not block.apart:
                done = CliRunner().invoke(app, [*words[1:], *SMALL.get(words[1], [])])
                assert done.exit_code == 0, f"{page.name}:{block.line}: {done.output}{done.exception!r}"


def execute(page: Path, block: Block, namespace: dict[str, object]) -> str:
    said = io.StringIO()
    code = compile("\n" * block.line + block.text, str(page), "exec")  # errors name the page's line
    with contextlib.redirect_stdout(said):
        exec(code, namespace)
    return said.getvalue()


@pytest.fixture
def _folder(tmp_path, monkeypatch):
    """An empty folder to be in, whose modules are found and forgotten again; the examples lie in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.mark.usefixtures("_folder")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_as_it_stands(page):
    namespace: dict[str, object] = {"__name__": "page"}
    printed = None
    for block in blocks(page.read_text()):
        assert block.language in LANGUAGES, f"{page.name}:{block.line}: name the language, text where it is none"
        if block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.text)
        if block.language == "text" and printed is not None:
            assert printed == block.text, f"{page.name}:{block.line}"
        printed = None
        if block.language == "python" and not block.title:
            printed = execute(page, block, namespace)
        elif block.language in ("sh", "console"):
            run(page, block)
        elif block.language == "toml":
            tomllib.loads(block.text)


def commands(group) -> list:
    """All of them, those of groups too."""
    return [group, *(found for command in getattr(group, "commands", {}).values() for found in commands(command))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_option_that_a_page_names_in_passing_is_there(page):
    ours = [span for span in spans(page.read_text()) if span.split()[:1] not in ([other] for other in OTHERS)]
    named = {option for span in ours for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)}
    options = [option for command in commands(get_command(app)) for option in command.params]
    assert named <= {"--help"} | {name for option in options for name in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("assay compare digits --wiht lamb", "--wiht"),
        ("assay compare digits --with lamb --seeds few", "valid integer"),
        ("assay data fetch cifar10 --wiht", "--wiht"),
        ("assay comprae digits --with lamb", "comprae"),
        ("assay compare --with lamb", "task"),
    ],
)
def test_a_wrong_command_is_found(line, said):
    with pytest.raises(Exception, match=said):
        read_by_the_command_line(line.split())


def test_the_commands_on_the_pages_of_papers_are_taken():
    made = runpy.run_path(str(ROOT / "docs" / "build" / "papers.py"))["pages"](entries())
    typed = [words for page in made.values() for block in blocks(page) for words in block.commands()]
    assert {tuple(words[:2]) for words in typed} == {("assay", name) for name in ("compare", "plan", "check")}
    for words in typed:
        read_by_the_command_line(words)


def test_the_readmes_objects_need_no_engine():
    (block,) = [block for block in blocks((ROOT / "README.md").read_text()) if block.language == "python"]
    code = (
        block.text + "\nimport sys; print(*(m for m in sys.modules if m.startswith(('assay.engine', 'assay.trials'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


def test_the_table_of_the_bootstrap_is_that_of_the_figures():
    measured = (ROOT / "docs" / "statistics.md").read_text()
    rows = re.findall(
        r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", (ROOT / "docs" / "verdicts.md").read_text(), re.M
    )
    assert rows
    for seeds, *shares in rows:
        t, percentile, bca = (f"{float(share) / 100:.3f}" for share in shares)
        assert re.search(rf"\| normal +\| {seeds} +\| {t} +\| [\d.]+ +\| {percentile} +\| {bca} +\|", measured), seeds
