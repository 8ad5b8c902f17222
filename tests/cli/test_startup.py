import subprocess
import sys

HEAVY = {"torch", "numpy", "plotly", "sqlalchemy", "optuna", "sklearn", "scipy", "lightning_fabric", "rich"}


def _modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_import_assay_imports_nothing_heavy():
    assert not _modules_after("import assay") & HEAVY


def test_help_imports_nothing_heavy():
    code = """
from assay.cli import main
for sys.argv in (["assay", "--help"], ["assay", "compare", "--help"], ["assay", "--version"]):
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, end.code
"""
    assert not _modules_after(code) & HEAVY


def test_the_control_of_these_tests_finds_torch():
    assert "torch" in _modules_after("import assay.engine")
