import io

from rich.console import Console

from assay.cli.output import default_report
from assay.cli.progress import Bars
from assay.cli.table import verdicts
from assay.trials import Progress
from tests.trials.make_result import make_result


def _shown(terminal: bool) -> str:
    out = io.StringIO()
    with Bars(Console(file=out, force_terminal=terminal, width=100)) as bars:
        bars(Progress("a", "baseline, seed 0", 1.0, "reused", 1, 4))
        bars(Progress("b", "cosine, seed 0", 0.5, "running", 1, 4))
        bars(Progress("c", "baseline, seed 1", 0.1, "running", 1, 4))
        bars(Progress("b", "cosine, seed 0", 1.0, "finished", 2, 4))
    return out.getvalue()


def test_a_terminal_is_shown_the_runs_under_way():
    shown = _shown(terminal=True)
    assert "2 of 4 runs" in shown
    assert "baseline, seed 1" in shown


def test_nothing_is_shown_where_nobody_looks():
    assert _shown(terminal=False) == ""


def test_runs_that_ended_leave_the_display():
    shown = _shown(terminal=True)
    assert "cosine, seed 0" not in shown[shown.rindex("2 of 4 runs") :]


def test_every_comparison_has_a_line_with_its_verdict_in_words():
    result = make_result(levels={"baseline": 0.93, "one": 0.97, "two": 0.90})
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(verdicts(result))
    lines = console.export_text().splitlines()
    assert any(line.strip().startswith("one") and line.strip().endswith("supported") for line in lines)
    assert any(line.strip().startswith("two") and line.strip().endswith("refuted") for line in lines)
    assert lines[0] == result.question


def test_a_long_name_is_broken_between_its_options():
    result = make_result(levels={"baseline": 0.93, "ghost-batchnorm:ghost_batch_size=16,scale_lr=false": 0.94})
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(verdicts(result))
    shown = console.export_text()
    starts = [line.split()[0] for line in shown.splitlines()[4:7]]
    assert starts == ["ghost-batchnorm:", "ghost_batch_size=16,", "scale_lr=false"]
    assert f" {result.comparisons[0].verdict}" in shown, shown


def test_default_report_is_named_for_what_was_compared():
    assert (
        str(default_report("digits", ["cutmix:alpha=1.0,p=0.5"])) == ".assay/reports/digits-cutmix-alpha-1.0-p-0.5.html"
    )


def test_default_reports_of_many_arms_have_short_different_names():
    names = {
        default_report("digits", [f"label-smoothing:smoothing=0.{i}" for i in range(9, 9 + n)]).name
        for n in range(4, 40)
    }
    assert len(names) == 36
    assert max(map(len, names)) < 110
