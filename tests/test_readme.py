import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_code_runs_as_it_stands_and_needs_no_engine():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code += "\nimport sys; print(*(m for m in sys.modules if m.startswith(('assay.engine', 'assay.trials'))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


def test_every_option_that_it_names_is_there():
    code = "import sys; from assay.cli import main; sys.argv = ['assay', 'plan', '--help']; main()"
    known = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120).stdout
    code = code.replace("plan", "compare")
    known += subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120).stdout
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README)) - {"--help"}
    assert named
    assert {option for option in named if option not in known} == set()
