import inspect
import sys
from types import ModuleType

import pytest

import assay.papers
from assay.claims.card import FAMILIES, Paper
from assay.engine import Method
from assay.errors import AssayError, UnknownName
from assay.methods.cosine import Cosine
from assay.methods.label_smoothing import LabelSmoothing
from assay.papers import make_method, methods, parse_arm


class Treatment(Method):
    name = "thin-ice"

    def __init__(self, **options):
        self.options = options


def treat(size: int, rate: float = 0.5, *, exact: bool = False, mode: str = "mean") -> Method:
    if size < 1:
        raise ValueError(f"size must be positive, got {size}")
    return Treatment(size=size, rate=rate, exact=exact, mode=mode)


@pytest.fixture
def papers(tmp_path, monkeypatch):
    """A paper with a method, `thin-ice`, and one without, `pure-theory`."""
    for slug, method in (("thin-ice", f"{__name__}.treat"), ("pure-theory", None)):
        place = slug.replace("-", "_")
        (tmp_path / f"{place}.py").touch()
        module = ModuleType(f"assay.papers.{place}")
        module.PAPER = Paper(slug, slug, (), 2020, "arXiv", FAMILIES[0], "", objects=("x.y",), method=method)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    monkeypatch.setattr(assay.papers, "__path__", [str(tmp_path)])


def test_a_bare_name_gives_the_methods_defaults():
    assert make_method("label-smoothing") == LabelSmoothing(0.1)


def test_options_are_read_as_annotated():
    assert make_method("label-smoothing:smoothing=0.25") == LabelSmoothing(0.25)


def test_a_papers_method_is_found_by_its_slug(papers):
    made = make_method("thin-ice:size=3,rate=1e-3,exact=True,mode=max")
    assert made.options == {"size": 3, "rate": 1e-3, "exact": True, "mode": "max"}
    assert {k: type(v) for k, v in made.options.items()} == {"size": int, "rate": float, "exact": bool, "mode": str}


def test_all_methods_are_listed_and_papers_without_one_are_not(papers):
    standard = {"adversarial-training", "batch-scaling", "cosine", "label-smoothing", "weight-distance"}
    assert set(methods()) == {*standard, "thin-ice"}


def test_every_method_declares_its_options_by_name_and_type():
    for name, factory in methods().items():
        for option in inspect.signature(factory).parameters.values():
            assert option.kind in (option.POSITIONAL_OR_KEYWORD, option.KEYWORD_ONLY), f"{name}: {option}"
            assert option.annotation is not option.empty, f"{name}: {option}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label-smothing", "unknown method 'label-smothing'; did you mean 'label-smoothing'?"),
        ("", "unknown method ''"),
        ("../thin_ice", "unknown method"),
        ("thin_ice:size=3", "did you mean 'thin-ice'?"),
        ("label-smoothing:smoohting=0.1", "did you mean 'smoothing'?"),
        ("thin-ice:size=many", "size must be a whole number, got 'many'"),
        ("thin-ice", "method 'thin-ice' needs option 'size'"),
        ("thin-ice:size=0", "method 'thin-ice:size=0': size must be positive, got 0"),
        ("label-smoothing:smoothing=1", "smoothing must lie in [0, 1), got 1"),
        ("label-smoothing:0.1", "cannot read '0.1'"),
        ("pure-theory", "paper 'pure-theory' has no method that treats a run"),
    ],
)
def test_what_cannot_be_read_is_said(papers, text, message):
    with pytest.raises(AssayError) as caught:
        make_method(text)
    assert message in str(caught.value)


def test_unknown_names_are_of_their_own_kind():
    with pytest.raises(UnknownName):
        make_method("nothing-like-it")


def test_an_arm_is_its_methods_in_order(papers):
    arm = parse_arm("label-smoothing:smoothing=0.2+cosine")
    assert arm == [LabelSmoothing(0.2), Cosine()]


def test_plus_inside_a_number_does_not_part_an_arm(papers):
    assert parse_arm("thin-ice:size=3,rate=1e+3")[0].options["rate"] == 1000.0


@pytest.mark.parametrize(
    ("text", "message"),
    [("cosine+", "unknown method ''"), ("cosine+cosine", "has method 'cosine' twice")],
)
def test_a_malformed_arm_is_refused(text, message):
    with pytest.raises(AssayError, match=message):
        parse_arm(text)
