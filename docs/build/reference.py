"""The reference: the commands from the command line's own help, the objects from their docstrings.

Modules are read, not imported. A module that is added to a package below gets its page by itself.
"""

import ast
import pkgutil
from pathlib import Path

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click
from typer.main import get_command

import assay
from assay.cli.app import app

ROOT = Path(assay.__file__).parent
TOOLBOXES = ("losses", "nn", "optim", "data", "compression", "metrics", "analysis", "models")
ENGINE = ("methods", "tasks", "integrations")
EXPORTS = ("engine", "trials")  # of these, what their `__all__` names; the rest is their own affair
SINGLE = ("papers", "claims.card", "claims.check", "errors")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and their order in the navigation."""
    for place, text in pages().items():
        files.append(File.generated(config, f"reference/{place}", content=text))
    return files


def pages() -> dict[str, str]:
    """A page for the commands, for each package, and for each module of those that are met by their modules."""
    made = {"commands.md": commands()}
    modules = {name: [m.name for m in pkgutil.iter_modules([str(ROOT / name)])] for name in (*TOOLBOXES, *ENGINE)}
    for package, found in modules.items():
        made |= {f"{package}/{module}.md": _module(f"{package}.{module}") for module in found}
        if found:
            made[f"{package}/index.md"] = _contents(package, found)
    made |= {f"{name}.md": _exports(name) for name in EXPORTS} | {f"{name}.md": _module(name) for name in SINGLE}
    order = {
        "Toolboxes": [{name: name} for name in TOOLBOXES if modules[name]],
        "Trials": [
            *(f"{name}.md" for name in EXPORTS),
            *({name: name} for name in ENGINE),
            *(f"{name}.md" for name in SINGLE),
        ],
    }
    made[".nav.yml"] = yaml.safe_dump({"nav": ["commands.md", *({k: v} for k, v in order.items())]}, sort_keys=False)
    return made


def commands() -> str:
    """Every command with its arguments and options."""
    command = get_command(app)
    context = command.make_context("assay", [], resilient_parsing=True)
    return get_docs_for_click(obj=command, ctx=context, name="assay", title="Commands")


def _module(name: str) -> str:
    title = name.rpartition(".")[2]
    whole = "      show_submodules: true\n" if _source(name).name == "__init__.py" else ""
    return f"---\ntitle: {title}\n---\n\n::: assay.{name}\n    options:\n      heading_level: 1\n{whole}"


def _source(name: str) -> Path:
    """The file of a module or of a package."""
    folder = ROOT / name.replace(".", "/")
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


def _contents(package: str, modules: list[str]) -> str:
    lines = [f"- [{name}]({name}.md): {_summary(_source(f'{package}.{name}'))}" for name in modules]
    return "\n".join(
        [f"---\ntitle: {package}\n---\n\n# assay.{package}", "", _summary(ROOT / package / "__init__.py"), "", *lines]
    )


def _exports(package: str) -> str:
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    (names,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    parts = [f"::: assay.{package}.{name}\n" for name in names]
    return "\n".join(
        [f"---\ntitle: {package}\n---\n\n# assay.{package}", "", _summary(ROOT / package / "__init__.py"), "", *parts]
    )


def _summary(path: Path) -> str:
    """The first paragraph of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0].replace("\n", " ")
