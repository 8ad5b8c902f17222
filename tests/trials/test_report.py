"""The report's three files: whole, faithful, self-contained and safe."""

import csv
import errno
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from make_result import BITS, make_result

from assay.errors import AssayError
from assay.trials.report import as_csv, as_html, as_json, read_report, write_report
from assay.trials.result import TrialResult
from assay.trials.words import summary_lines


class Elements(HTMLParser):
    """Every element with its attributes, and the text of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def full() -> TrialResult:
    levels = {"baseline": 0.93, "label-smoothing": 0.96, "lamb": 0.93}
    return make_result(levels=levels, diverging={"lamb": [1, 3]}, costs={"lamb": 1.5}, control="lamb")


def test_three_files_of_one_name_are_written(tmp_path: Path) -> None:
    files = write_report(full(), tmp_path / "new" / "report.html")
    assert [file.name for file in files] == ["report.html", "report.json", "report.csv"]
    assert sorted(os.listdir(tmp_path / "new")) == ["report.csv", "report.html", "report.json"]


def test_the_json_reads_back_as_the_same_trial(tmp_path: Path) -> None:
    result = full()
    again = read_report(write_report(result, tmp_path / "report.html")[1])
    assert again == result


def test_numbers_that_are_not_finite_survive_strict_json(tmp_path: Path) -> None:
    result = make_result(seeds=1, levels={"baseline": 0.9, "NaN": 0.9})
    (comparison,) = result.comparisons
    assert comparison.low == -math.inf
    result.arms[1].runs[0].extras["loss"] = math.nan

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(as_json(result), parse_constant=refuse)
    again = read_report(write_report(result, tmp_path / "report.html")[1])
    assert again.comparisons == [comparison]
    assert again.arms[1].name == "NaN"
    assert math.isnan(again.arms[1].runs[0].extras["loss"])


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content in ("", "[]", '{"schema": 2}'):
        path.write_text(content)
        with pytest.raises(AssayError, match=r"x\.json"):
            read_report(path)
    with pytest.raises(AssayError, match=r"none\.json"):
        read_report(tmp_path / "none.json")


def test_the_csv_has_a_row_a_run_with_every_figure() -> None:
    result = full()
    rows = list(csv.DictReader(as_csv(result).splitlines()))
    runs = [(arm.name, run) for arm in result.arms for run in arm.runs]
    assert [(row["arm"], int(row["seed"]), row["status"]) for row in rows] == [(n, r.seed, r.status) for n, r in runs]
    for row, (_, run) in zip(rows, runs, strict=True):
        for name in ("steps", "epochs", "samples", "seconds", "flops", "peak_memory"):
            assert float(row[name]) == getattr(run, name)
        found = {k: float(v) for k, v in row.items() if "/" in k and v}
        assert found == {f"{part}/{name}": v for part, values in run.metrics.items() for name, v in values.items()}


def test_the_page_says_what_the_terminal_says() -> None:
    result = full()
    text = " ".join(Elements(as_html(result)).text.split())
    for line in summary_lines(result):
        words = line.strip().removeprefix("Note: ")
        title, found, rest = words.partition(": ")
        verdict, _, sentences = rest.partition(". ")
        parts = [title, verdict.capitalize(), sentences] if found and verdict.isupper() else [words]
        assert all(part in text for part in parts), parts


def test_the_answer_comes_before_the_figures() -> None:
    text = Elements(as_html(full())).text
    order = ["Does label-smoothing help", "Supported", "Paired differences", "Learning curves", "Cost of a run"]
    places = [text.index(part) for part in [*order, "Every run", "To repeat it"]]
    assert places == sorted(places)


def test_nothing_is_loaded_and_nothing_runs() -> None:
    page = as_html(full())
    tags = [tag for tag, _ in Elements(page).elements]
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(tags)
    assert not re.search(r"https?:|url\(|@import|\son\w+=|javascript:", page)
    assert "default-src 'none'" in page


def test_what_users_wrote_stays_text() -> None:
    evil = "<script>alert(1)</script>\"' onmouseover=x"
    result = make_result(levels={"baseline": 0.9, evil: 0.91}, question=evil, command=f"assay compare {evil}")
    result.task = {"name": evil, "settings": {evil: evil}}
    result.arms[1].recipe[evil] = evil
    result.comparisons[0].notes.append(evil)
    result.environment[evil] = evil
    page = Elements(as_html(result))
    assert "script" not in [tag for tag, _ in page.elements]
    assert not any("onmouseover" in name for _, attributes in page.elements for name in attributes)
    assert page.text.count(evil) > 5


def test_everything_needed_to_repeat_the_trial_is_there() -> None:
    result = full()
    text = Elements(as_html(result)).text
    settings = ["lr 0.1", "batch_size 64", "label-smoothing (alpha=0.1)", "0, 1, 2, 3, 4", "10 epochs", "hidden 64"]
    for part in [result.command, *settings, result.code["digest"], "threads 1", "2 min 20 s in all", "1 run reused"]:
        assert part in text, part


def test_costs_are_relative_to_the_first_arm_and_of_finished_runs() -> None:
    result = full()
    finished = [run.flops for run in result.arms[2].runs if run.status == "finished"]
    base = [run.flops for run in result.arms[0].runs]
    ratio = (sum(finished) / len(finished)) / (sum(base) / len(base))
    assert ratio == pytest.approx(1.5)
    assert f"×{ratio:.2f}" in Elements(as_html(result)).text  # noqa: RUF001


def test_tuning_shows_what_was_tried_and_chosen() -> None:
    text = " ".join(Elements(as_html(make_result(tuned=True))).text.split())
    assert text.count("lr 0.03162, of 3 tried with seed 1000003") == 2
    assert "lr 0.1 91.00% lr 0.03162 93.00% chosen lr 1 0.00% (diverged)" in text
    assert "Tuning" not in as_html(make_result())


@pytest.mark.parametrize(
    "result",
    [
        make_result(metric=BITS, levels={"baseline": 1.9, "lamb": 1.88}, smallest_effect=0.01),
        make_result(seeds=1),
        make_result(seeds=2, diverging={"baseline": [0, 1], "label-smoothing": [0, 1]}),
        make_result(levels={f"arm {i}": 0.9 for i in range(25)}),
        make_result(levels={"baseline": 0.9}),
        make_result(smallest_effect=0.0),
    ],
    ids=["less is better", "one seed", "all diverged", "many arms", "no comparison", "no smallest effect"],
)
def test_odd_trials_make_pages_without_nan(result: TrialResult) -> None:
    page = as_html(result)
    assert not re.search(r"\b(nan|inf)\b", page, re.IGNORECASE)


def test_a_report_of_many_arms_stays_small() -> None:
    page = as_html(make_result(levels={f"arm {i}": 0.9 for i in range(10)}))
    assert len(page.encode()) < 250_000


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"must end in \.html, got .*report\.pdf"):
        write_report(make_result(), tmp_path / "report.pdf")


def test_a_place_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AssayError, match="cannot write report") as caught:
        write_report(make_result(), tmp_path / "file" / "report.html")
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_old_report_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    write_report(make_result(), path)
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(AssayError, match="No space left on device"):
        write_report(make_result(seeds=3), path)
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["report.csv", "report.html", "report.json"]
