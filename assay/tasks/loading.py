"""From what a person writes, `digits`, `cifar10:model=resnet20` or `my_task.py:task`, to a task."""

import hashlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from assay import options
from assay.errors import AssayError, UnknownName
from assay.plugins import Plugin, plugins

if TYPE_CHECKING:
    from assay.engine import Task

_TASKS = {
    "digits": ("assay.tasks.digits:Digits", "8x8 handwritten digits, small CNN; comes with scikit-learn"),
    "cifar10": ("assay.tasks.cifar10:CIFAR10", "32x32 colour images, ResNet-8 or ResNet-20"),
    "fashion-mnist": ("assay.tasks.fashion_mnist:FashionMNIST", "28x28 grey images of clothes, small CNN"),
    "network-space": (
        "assay.tasks.network_space:NetworkSpace",
        "many small networks at once on the clothes or the digits, judged by how calibration ranks them",
    ),
    "contrastive": (
        "assay.tasks.contrastive:Contrastive",
        "SimCLR on digits, Fashion-MNIST or CIFAR-10, judged by nearest neighbours and a linear probe",
    ),
    "stable-rates": (
        "assay.tasks.stable_rates:StableRates",
        "many copies of a small perceptron on the digits, for the largest learning rate that trains by batch size",
    ),
    "text": (
        "assay.tasks.text:Text",
        "next-byte prediction, small transformer, LSTM or GRU; Python's own source or any file",
    ),
    "bags": ("assay.tasks.bags:Bags", "mean responses of bags of samples, diabetes or digits; from scikit-learn"),
    "separation": (
        "assay.tasks.separation:Separation",
        "iterations of gradient descent to separate two classes, clothes, digits or a hard family of points",
    ),
    "retrieval": ("assay.tasks.retrieval:Retrieval", "an old model's gallery searched by a new one, digits or clothes"),
    "segmentation": (
        "assay.tasks.segmentation:Segmentation",
        "the class of every pixel in pictures of shapes, small network with a feature pyramid; made from the seed",
    ),
}
_FILE = re.compile(r"(?P<file>.+?\.py)(?::(?P<attribute>\w+)(?::(?P<options>.*))?)?", re.DOTALL)


def available() -> dict[str, str]:
    """The tasks that have a name: name -> what it is, in a line; of a plugin's, whose it is. None is imported."""
    own = {name: line for name, (_, line) in _TASKS.items()}
    return own | {name: f"of plugin {plugin.origin}" for name, plugin in plugins("task", _TASKS).items()}


def load(spec: str, *, data_dir: str | Path | None = None, **given: Any) -> "Task":
    """Make a task.

    A file of one's own is run as Python would run it, its folder on the module search path. What it defines is
    identified by that file's content alone: a change in another file that it imports is not seen.

    Args:
        spec: a built-in task or a plugin's with its options, `"digits"`, `"cifar10:model=resnet20,train_size=10000"`;
            or a task in a file, `"my_task.py:task"`: a `Task`, a subclass, or a function that gives one, the latter two
            with options where they take any (`"my_task.py:make:depth=3"`).
        data_dir: the folder of data sets, for tasks that read one.
        given: more options; text is read as the type that the task declares.

    Raises:
        UnknownName: there is no such task or option.
        AssayError: the file or the plugin does not work, or an option's value cannot be read.
    """
    name, _, text = spec.partition(":")
    brought = plugins("task", _TASKS)
    if name in _TASKS:
        module, _, attribute = _TASKS[name][0].partition(":")
        task: Task = _call(name, getattr(import_module(module), attribute), options.parse(text) | given, data_dir)
        return task
    if name in brought:
        return _from_plugin(brought[name], options.parse(text) | given, data_dir)
    match = _FILE.fullmatch(spec)
    if match is None:
        raise UnknownName("task", name, [*_TASKS, *brought])
    return _from_file(Path(match["file"]), match["attribute"], options.parse(match["options"] or "") | given, data_dir)


def _from_plugin(plugin: Plugin, given: dict[str, Any], data_dir: str | Path | None) -> "Task":
    from assay.engine import Task

    factory = plugin.load()
    if not callable(factory):
        raise AssayError(f"{plugin} must be a subclass of Task or a function, got {type(factory).__name__}")
    made = plugin.told(partial(_call, plugin.name, factory, given, data_dir))
    if not isinstance(made, Task) or made.name != plugin.name or not made.metrics:
        got = f"one named {made.name!r} with {len(made.metrics)}" if isinstance(made, Task) else type(made).__name__
        raise AssayError(f"{plugin} must make a Task of that name with at least one metric, got {got}")
    return made


def _from_file(file: Path, attribute: str | None, given: dict[str, Any], data_dir: str | Path | None) -> "Task":
    from assay.engine import Task

    if not file.is_file():
        raise AssayError(f"no file {file}")
    file = file.resolve()
    if attribute is None:
        raise AssayError(
            f"which task in {file}? write {file.name}:NAME, where NAME is a Task, a subclass or a function"
        )
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    defined = vars(_told(file, partial(_run, file, f"assay_task_{digest}")))
    if attribute not in defined:
        raise UnknownName(f"name in {file}", attribute, [name for name in defined if not name.startswith("_")])
    made = defined[attribute]
    if not isinstance(made, Task):
        if not callable(made):
            raise AssayError(f"{file}: {attribute} must be a Task, a subclass or a function, got {type(made).__name__}")
        made = _told(file, partial(_call, f"{file.name}:{attribute}", made, given, data_dir))
    elif given:
        raise AssayError(f"{file}: {attribute} is a Task already, so it takes no options; got {', '.join(given)}")
    if not isinstance(made, Task):
        raise AssayError(f"{file}: {attribute}() must give a Task, got {type(made).__name__}")
    if not made.name or not made.metrics:
        raise AssayError(f"{file}: {attribute} must have a name and at least one metric")
    made.source = digest
    made.rebuild = (partial(load, data_dir=data_dir, **given), (f"{file}:{attribute}",))
    return made


def _run(file: Path, name: str) -> ModuleType:
    """The module `name` that the file makes."""
    spec = spec_from_file_location(name, file, loader=_Loader(name, str(file)))
    if spec is None or spec.loader is None:
        raise AssayError(f"cannot import {file}")
    module = module_from_spec(spec)
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    sys.modules[name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class _Loader(SourceFileLoader):
    """Compiles its source each time: bytecode kept from before passes for fresh after an edit in the same second."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _told(file: Path, act: Callable[[], Any]) -> Any:
    """What `act()` gives; whatever goes wrong in the file's own code becomes one message with file, line and cause."""
    try:
        return act()
    except AssayError:
        raise
    except SyntaxError as error:
        raise AssayError(f"{error.filename or file}, line {error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f"{file}, line {lines[-1]}" if lines else str(file)
        raise AssayError(f"{where}: {type(error).__name__}: {error}") from error


def _call(name: str, factory: Callable[..., Any], given: Mapping[str, Any], data_dir: str | Path | None) -> Any:
    """`factory` with its options read as the types it declares."""
    found = options.arguments(name, factory, given, apart=("data_dir",))
    if data_dir is not None and "data_dir" in inspect.signature(factory).parameters:
        found["data_dir"] = str(data_dir)
    return factory(**found)
