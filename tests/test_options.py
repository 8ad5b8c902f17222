from pathlib import Path
from typing import Literal

import pytest

from assay.errors import AssayError, UnknownName
from assay.options import arguments, parse, read


def test_parts_are_names_and_values():
    assert parse(" a = 1, b=x=y ") == {"a": "1", "b": "x=y"}
    assert parse("") == {}


@pytest.mark.parametrize("text", ["a", "a=", "=1", "a=1,", "a=1,,b=2", "a=1,a=2"])
def test_malformed_parts_are_refused(text):
    with pytest.raises(AssayError, match=r"cannot read|twice"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", int, 3), ("1e-3", float, 1e-3), ("Yes", bool, True), ("0", bool, False), ("max", str, "max"),
        ("a/b", Path, Path("a/b")), ("none", int | None, None), ("4", int | None, 4), ("2", Literal[1, 2], 2),
    ],
)  # fmt: skip
def test_text_becomes_the_declared_type(text, kind, value):
    found = read("x", text, kind)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("2.5", int, "x must be a whole number, got '2.5'"),
        ("nan", float, "x must be a number, got 'nan'"),
        ("maybe", bool, "x must be true or false, got 'maybe'"),
        ("mena", Literal["mean", "sum"], "unknown x 'mena'; did you mean 'mean'?"),
        ("1", list[int], "x must be given in Python"),
    ],
)
def test_text_of_another_type_is_refused(text, kind, message):
    with pytest.raises(AssayError) as caught:
        read("x", text, kind)
    assert message in str(caught.value)


def make(size: int, folder: str = "", *, rate: float = 0.5) -> None: ...


def test_arguments_are_read_by_the_signature():
    assert arguments("make", make, {"size": "3", "rate": 1}, apart=["folder"]) == {"size": 3, "rate": 1}


def test_an_option_that_lacks_or_is_not_there_is_refused():
    with pytest.raises(AssayError, match="make needs option 'size'"):
        arguments("make", make, {})
    with pytest.raises(UnknownName, match="unknown option of make: 'raet'; did you mean 'rate'"):
        arguments("make", make, {"size": "1", "raet": "2"})
    with pytest.raises(UnknownName, match="'folder'"):
        arguments("make", make, {"size": "1", "folder": "x"}, apart=["folder"])
