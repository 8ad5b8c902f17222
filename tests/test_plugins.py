"""Plugins as they are met: distributions on the module search path, that of the documentation first of all."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from assay.cli.app import app
from assay.engine import Run
from assay.engine.record import own_code
from assay.errors import AssayError, PluginWarning, UnknownName
from assay.papers import make_method, methods, own_slugs, paper, papers, slugs
from assay.papers.catalog import markdown_table
from assay.plugins import plugins
from assay.tasks import available, load
from tests.docs.blocks import blocks

ROOT = Path(__file__).parents[1]
DOCUMENT = blocks((ROOT / "docs" / "plugins.md").read_text())
FILES = {block.title: block.text for block in DOCUMENT if block.title}
POINTS = tomllib.loads(FILES["pyproject.toml"])["project"]["entry-points"]
ACME = {"__init__.py": ""} | {Path(name).name: text for name, text in FILES.items() if name.startswith("acme_assay/")}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution where Python finds it: `install(points, files, name)`."""
    monkeypatch.chdir(tmp_path)
    forget()  # such as were imported where the pages are run

    def install(points, files, name="acme-assay") -> Path:
        site = tmp_path / f"site-{name}"
        package = site / name.replace("-", "_")
        info = site / f"{name.replace('-', '_')}-0.1.dist-info"
        for folder in (package, info):
            folder.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
        groups = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in points.items()]
        (info / "entry_points.txt").write_text("\n".join(groups))
        for file, code in files.items():
            (package / file).write_text(code)
        monkeypatch.syspath_prepend(str(site))
        return package

    yield install
    forget()


def forget() -> None:
    """Have the plugins imported anew."""
    for module in [module for module in sys.modules if module.partition(".")[0] in ("acme_assay", "brand_assay")]:
        del sys.modules[module]


@pytest.fixture
def acme(install):
    return install(POINTS, ACME)


def refused(*args: str) -> str:
    done = CliRunner().invoke(app, args, catch_exceptions=False)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    return done.stderr


def test_the_documented_plugin_is_found_by_name(acme):
    assert available()["parity"] == "of plugin acme-assay 0.1"
    assert load("parity:bits=5").bits == 5
    assert make_method("gradient-noise:scale=0.5").scale == 0.5
    assert "gradient-noise" in methods()
    assert paper("noisy-training").title == "A paper of ours"
    assert set(slugs()) - set(own_slugs()) == {"noisy-training"}
    assert "noisy-training" in {card.slug for card in papers()}


def test_the_documented_commands_run_and_their_workers_find_the_plugin(acme):
    compare, show = (words for block in DOCUMENT if block.language == "sh" for words in block.commands())
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(acme.parent)])}
    code = "from assay.cli import main; main()"

    def run(words: list[str], *more: str):
        typed = [sys.executable, "-c", code, *words[1:], *more]
        return subprocess.run(typed, capture_output=True, text=True, timeout=300, env=env)

    done = run(compare, "--json", "--workers", "1", "--executor", "pool")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [arm["name"] for arm in result["arms"]] == ["baseline", "gradient-noise:scale=0.1", "label-smoothing"]
    assert {"task", "method gradient-noise"} <= set(result["arms"][1]["runs"][0]["code"])
    done = run(show)
    assert done.returncode == 0, done.stderr
    assert "A paper of ours" in done.stdout


def test_the_readmes_table_is_of_assays_own_papers(acme):
    assert "noisy-training" not in markdown_table()


def test_names_are_listed_without_importing_the_plugin_or_torch(acme):
    (acme / "__init__.py").write_text("raise SystemExit('imported')")
    code = (
        "import sys\nfrom assay.cli import main\nsys.argv = ['assay', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print(*({'torch', 'acme_assay'} & {*sys.modules}))"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(acme.parent)])}
    for args in (["--help"], ["tasks", "--json"]):
        typed = [sys.executable, "-c", code, *args]
        done = subprocess.run(typed, capture_output=True, text=True, timeout=120, env=env, check=True)
        assert done.stdout.endswith("\n\n"), done.stdout  # the set is empty
    assert "parity" in done.stdout


def test_a_plugin_that_cannot_be_imported_is_told_by_name_and_leaves_the_rest_alone(acme):
    (acme / "__init__.py").write_text("import no_such_module")
    for args in (
        ["compare", "parity", "--with", "cosine"],
        ["compare", "digits", "--with", "gradient-noise"],
        ["show", "noisy-training"],
    ):
        said = refused(*args)
        assert re.match(r"assay: (task|method|paper) '[a-z-]+' of plugin acme-assay 0.1 does not work: Module", said)
        assert said.count("\n") == 1
    assert load("digits").name == "digits"
    assert make_method("cosine").name == "cosine"
    for listing in ("methods", "papers"):
        done = CliRunner().invoke(app, [listing, "--json"], catch_exceptions=False)
        assert done.exit_code == 0
        assert len(json.loads(done.stdout)) >= 3
        assert "assay: left out:" in done.stderr
        assert "of plugin acme-assay 0.1 does not work: ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize(
    ("group", "name", "lookup"),
    [
        ("assay.tasks", "digits", lambda: load("digits")),
        ("assay.methods", "cosine", lambda: make_method("cosine")),
        ("assay.methods", "cutmix", lambda: make_method("cutmix")),
        ("assay.papers", "cutmix", lambda: paper("cutmix")),
        ("assay.papers", "cosine", lambda: make_method("cosine")),
    ],
)
def test_what_assay_has_cannot_be_replaced_and_it_says_so(install, group, name, lookup):
    install({group: {name: "acme_assay:thing"}}, {"__init__.py": "raise RuntimeError('imported')"})
    with pytest.warns(PluginWarning, match=f"'{name}' of plugin acme-assay 0.1 is left out: that name is assay's own"):
        found = lookup()
    assert type(found).__module__.startswith("assay.")


def test_a_name_that_two_packages_offer_is_nobodys(install):
    for name in ("acme-assay", "brand-assay"):
        install({"assay.methods": {"blur": f"{name.replace('-', '_')}:Blur"}}, {"__init__.py": ""}, name)
    with pytest.warns(PluginWarning, match="(acme|brand)-assay 0.1 and (acme|brand)-assay 0.1 both have it"):
        assert plugins("method", ()) == {}
    with pytest.warns(PluginWarning), pytest.raises(UnknownName, match="unknown method 'blur'"):
        make_method("blur")


def test_a_name_that_cannot_be_typed_is_left_out(install):
    install({"assay.methods": {"Two+One": "acme_assay:Blur"}}, {"__init__.py": ""})
    with pytest.warns(PluginWarning, match=r"'Two\+One' .* is left out: a name is made of small letters"):
        assert plugins("method", ()) == {}


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("method", "thing = 3", "must be a subclass of Method or a function, got int"),
        ("method", "def thing(): return 3", "must make a Method of that name, got int"),
        (
            "method",
            "from assay.methods.cosine import Cosine as thing",
            "must make a Method of that name, got one named",
        ),
        ("method", "def thing(): return 1 / 0", "does not work: ZeroDivisionError"),
        ("method", "", "does not work: AttributeError"),
        ("task", "thing = 3", "must be a subclass of Task or a function, got int"),
        ("task", "def thing(): return 3", "must make a Task of that name with at least one metric, got int"),
        ("task", "from assay.tasks.digits import Digits as thing", "got one named 'digits' with 3"),
        ("task", "def thing(): return 1 / 0", "does not work: ZeroDivisionError"),
        ("paper", "thing = 3", "must be a Paper of that slug, got int"),
        (
            "paper",
            "from assay.papers.cutmix import PAPER as thing",
            "must be a Paper of that slug, got a paper of slug",
        ),
        ("paper", "import sys; sys.exit(3)", "does not work: SystemExit: 3"),
    ],
)
def test_what_is_not_what_it_says_is_refused(install, kind, code, message):
    install({f"assay.{kind}s": {"odd-one": "acme_assay:thing"}}, {"__init__.py": code})
    look = {"method": make_method, "task": load, "paper": paper}[kind]
    with pytest.raises(AssayError, match=message) as caught:
        look("odd-one")
    assert "'odd-one'" in str(caught.value)


def test_unknown_names_are_answered_with_the_nearest_plugin_too(acme):
    with pytest.raises(UnknownName, match="did you mean 'parity'"):
        load("pairty")
    with pytest.raises(UnknownName, match="did you mean 'gradient-noise'"):
        make_method("gradient-nose")
    with pytest.raises(UnknownName, match="did you mean 'scale'"):
        make_method("gradient-noise:scael=1")


def test_a_plugin_that_refuses_a_setting_is_a_mistake_and_not_a_fault(install):
    code = "from assay.methods.cosine import Cosine\nclass Picky(Cosine):\n    name = 'picky'\n"
    code += "    def __init__(self, size: int = 1):\n        raise ValueError(f'size must be even, got {size}')\n"
    install({"assay.methods": {"picky": "acme_assay:Picky"}}, {"__init__.py": code})
    with pytest.raises(AssayError, match=r"'picky' of plugin acme-assay 0\.1: size must be even, got 3"):
        make_method("picky:size=3")


def test_a_papers_own_method_goes_by_its_slug(install):
    code = ACME["noisy_training.py"].replace("objects=(", 'method="acme_assay.methods.GradientNoise",\n    objects=(')
    files = ACME | {"noisy_training.py": code.replace('"noisy-training"', '"gradient-noise"')}
    install({"assay.papers": {"gradient-noise": "acme_assay.noisy_training:PAPER"}}, files)
    assert make_method("gradient-noise:scale=0.5").scale == 0.5
    assert "gradient-noise" in methods()


def key() -> str:
    """Of a run of the plugin's task and method, as a process finds it that starts now."""
    forget()
    task = load("parity")
    return Run(task, task.recipe.with_methods([make_method("gradient-noise")]), budget="3epochs").key


@pytest.mark.parametrize("file", ["methods.py", "tasks.py", "helper.py"])
def test_a_run_is_identified_by_the_code_of_the_plugin(acme, file):
    (acme / "helper.py").write_text("SIZE = 3\n")
    before = key()
    assert key() == before
    (acme / file).write_text((acme / file).read_text() + "# edited\n")
    assert key() != before


def test_the_code_of_a_method_of_a_package_is_all_of_the_package_and_nothing_else(acme):
    method = make_method("gradient-noise")
    before = own_code(method)
    assert before == own_code(load("parity"))
    (acme / "notes.txt").write_text("no code")
    (acme.parent / "neighbour.py").write_text("of another package")
    tool = acme / ".venv" / "lib"
    tool.mkdir(parents=True)
    (tool / "module.py").write_text("of a tool")
    assert own_code(method) == before
    inner = acme / "inner"
    inner.mkdir()
    (inner / "__init__.py").write_text("")
    assert own_code(method) != before
