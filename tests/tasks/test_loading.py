import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from assay.engine import Run, Task
from assay.errors import AssayError, UnknownName
from assay.tasks import available, load

ROOT = Path(__file__).parents[2]
MINE = """
from pathlib import Path
from typing import Literal
import torch
from assay.engine import Metric, Splits, Task, TensorExamples

class Mine(Task):
    name = "mine"
    metrics = (Metric("error", "min", 9.0),)

    def __init__(self, depth: int = 1, rate: float | None = 0.5, wide: bool = False,
                 kind: Literal["a", "b"] = "a", where: Path = Path("x"), data_dir: str | None = None):
        self.options = (depth, rate, wide, kind, where)
        self.data_dir = data_dir

task = Mine()

def make(depth: int = 3):
    return Mine(depth)

number = 3
nameless = Task()

def wrong():
    return 3

def breaks():
    return 1 / 0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_every_task_that_is_available_loads_under_its_name() -> None:
    assert set(available()) == {
        "bags",
        "cifar10",
        "contrastive",
        "digits",
        "fashion-mnist",
        "network-space",
        "retrieval",
        "stable-rates",
        "text",
    }
    for name, line in available().items():
        task = load(name)
        assert isinstance(task, Task)
        assert task.name == name
        assert task.metrics
        assert line


def test_names_are_listed_without_importing_torch_or_sklearn() -> None:
    program = (
        "import sys; from assay.tasks import available, load; available(); print({'torch', 'sklearn'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"


def test_options_are_read_as_the_types_that_the_task_declares() -> None:
    task = load("cifar10:model=resnet20,train_size=10000,augment=no", data_dir="somewhere")
    assert (task.network, task.train_size, task.augment, task.data_dir) == ("resnet20", 10000, False, "somewhere")
    assert load("cifar10:train_size=none").train_size == 45_000
    assert load("text:path=a.py,context=32").path == "a.py"  # a file's name in an option is not a file of tasks
    assert load("cifar10", train_size=99, model="resnet20").train_size == 99
    assert load("digits", data_dir="somewhere").name == "digits"  # needs none


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "unknown task 'digit'; did you mean 'digits'"),
        ("cifar10:modl=resnet8", "unknown option of cifar10: 'modl'; did you mean 'model'"),
        ("cifar10:model=resnet9", "unknown model 'resnet9'; did you mean 'resnet8'"),
        ("cifar10:data_dir=x", "unknown option of cifar10: 'data_dir'"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(spec: str, message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        load(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cifar10:train_size=many", "train_size must be a whole number, got 'many'"),
        ("cifar10:train_size=1.5", "train_size must be a whole number"),
        ("cifar10:train_size=9", r"train_size must lie in 10..45000, got 9"),
        ("fashion-mnist:train_size=55001", r"train_size must lie in 10..55000, got 55001"),
        ("cifar10:augment=maybe", "augment must be true or false, got 'maybe'"),
        ("cifar10:resnet20", "cannot read 'resnet20'; write name=value"),
        ("cifar10:augment=no,augment=yes", "augment is given twice"),
        ("text:context=0", "context must be positive, got 0"),
        ("text:width=10,heads=3", "width must be a multiple of heads"),
    ],
)
def test_a_wrong_value_is_one_message(spec: str, message: str) -> None:
    with pytest.raises(AssayError, match=message):
        load(spec)


@pytest.mark.parametrize("name", ["digits", "cifar10:model=resnet20", "fashion-mnist:train_size=50", "text:width=64"])
def test_a_task_travels_to_another_process_without_its_data(name: str) -> None:
    task = load(name)
    if name == "digits":
        task.splits(0)
    sent = pickle.dumps(task)
    assert len(sent) < 1000
    assert vars(pickle.loads(sent)) == vars(task)


def test_a_task_in_a_file_may_be_an_object_a_class_or_a_function(file: Path) -> None:
    assert load(f"{file}:task").options == (1, 0.5, False, "a", Path("x"))
    assert load(f"{file}:Mine", data_dir="d").data_dir == "d"
    made = load(f"{file}:Mine:depth=2,rate=none,wide=on,kind=b,where=y")
    assert made.options == (2, None, True, "b", Path("y"))
    assert load(f"{file}:make:depth=4").options[0] == 4


def test_a_task_in_a_file_is_identified_by_the_content_and_made_anew_elsewhere(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load(f"{file}:Mine:depth=2", data_dir="d")
    sent = pickle.dumps(task)
    monkeypatch.delitem(sys.modules, type(task).__module__)  # as in a process that has never seen the file
    again = pickle.loads(sent)
    assert (again.options, again.data_dir, again.source) == (task.options, task.data_dir, task.source)
    assert len(task.source) == 16
    file.write_text(MINE.replace("0.5", "0.7"))  # same length, within the same second
    changed = load(f"{file}:task")
    assert changed.options[1] == 0.7
    assert changed.source != task.source


def test_a_file_may_import_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "a_neighbour_of_mine.py").write_text("DEPTH = 5\n")
    (tmp_path / "mine.py").write_text(MINE + "\nimport a_neighbour_of_mine\ntask = Mine(a_neighbour_of_mine.DEPTH)\n")
    assert load(f"{tmp_path / 'mine.py'}:task").options[0] == 5


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("tsk", "unknown name in .*mine.py 'tsk'; did you mean 'task'"),
        ("number", "number must be a Task, a subclass or a function, got int"),
        ("wrong", r"wrong\(\) must give a Task, got int"),
        ("nameless", "must have a name and at least one metric"),
        ("breaks", r"mine.py, line 28: ZeroDivisionError: division by zero"),
        ("task:depth=2", "is a Task already, so it takes no options; got depth"),
        ("Mine:dept=2", "unknown option of mine.py:Mine: 'dept'; did you mean 'depth'"),
    ],
)
def test_what_is_no_task_is_told_with_its_file(file: Path, attribute: str, message: str) -> None:
    with pytest.raises(AssayError, match=message):
        load(f"{file}:{attribute}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\ndef task(:\n", r"mine.py, line 2: invalid syntax"),
        ("\n\nimport no_such_module_at_all\n", r"mine.py, line 3: ModuleNotFoundError: No module named 'no_such"),
        ("def f():\n    raise KeyError('k')\nf()\n", r"mine.py, line 2: KeyError: 'k'"),
        ("import sys\nsys.exit(3)\n", r"mine.py, line 2: SystemExit: 3"),
    ],
)
def test_what_breaks_in_a_file_is_one_message_with_the_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    modules = set(sys.modules)
    with pytest.raises(AssayError, match=message) as caught:
        load(f"{path}:task")
    assert "\n" not in str(caught.value)
    assert not {name for name in set(sys.modules) - modules if name.startswith("assay_task_")}


def test_a_file_that_is_not_there_or_without_a_name_is_told(file: Path) -> None:
    with pytest.raises(AssayError, match=r"no file .*absent.py"):
        load(f"{file.parent / 'absent.py'}:task")
    with pytest.raises(AssayError, match=r"which task in .*mine.py\? write mine.py:NAME"):
        load(str(file))


def test_the_example_runs() -> None:
    task = load(f"{ROOT / 'examples/my_task.py'}:task")
    record = Run(task, budget="3steps", vary=task.varies).train()
    assert record.status == "finished"
    assert 0 < record.metrics["test"]["error"] < 3
    assert record.code["task"] == task.source
