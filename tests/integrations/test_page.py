import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "other-trainers.md").read_text()


def test_the_page_runs_as_it_stands_and_all_four_train():
    pytest.importorskip("lightning")
    pytest.importorskip("transformers")
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    check = "print(*(r.steps for r in (run, session, methods.session, treated.session)), 'done')"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, check])], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "20 20 20 20 done"
