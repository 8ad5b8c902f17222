import pickle
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from assay.analysis.calibration_study import Predictions, Study, read_predictions, read_study, study
from assay.errors import AssayError
from assay.metrics.calibration.report import calibration_report
from assay.metrics.calibration.scores import ood_auroc
from assay.nn.logit_scaling import TemperatureScaling


def network(seed, scale, outside=True):
    """Overconfident by `scale`."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(900, 4, generator=generator, dtype=torch.float64) * (1 + seed / 4)
    y = torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]
    z = z * scale
    foreign = {"noise": torch.randn(100, 4, generator=generator, dtype=torch.float64)} if outside else {}
    return Predictions(f"net {seed}", z[:300], y[:300], z[300:], y[300:], foreign)


@pytest.fixture(scope="module")
def found():
    return study([network(seed, 1 + seed / 3) for seed in range(6)], bins=(5, 15))


def test_every_measure_is_there_before_and_after(found):
    assert found.names == [f"net {seed}" for seed in range(6)]
    one = network(3, 2.0)
    scaling = TemperatureScaling().fit(one.valid_logits, one.valid_target)
    reports = {
        "pre": calibration_report(one.test_logits, one.test_target, bins=(5, 15)),
        "post": calibration_report(scaling(one.test_logits), one.test_target, bins=(5, 15)),
    }
    for when, report in reports.items():
        for name, value in report.items():
            key = name if name == "accuracy" else f"{name}_{when}"
            assert found.figures[key][3] == pytest.approx(value, abs=1e-12), key
    assert found.figures["temperature"][3] == pytest.approx(float(scaling.temperature))
    assert found.figures["auc_noise"][3] == pytest.approx(float(ood_auroc(one.test_logits, one.outside["noise"])))
    accuracy, ece = found.figures["accuracy"][3], found.figures["ece_15_post"][3]
    assert found.figures["hcs_post"][3] == pytest.approx(2 / (1 / accuracy + 1 / (1 - ece)))
    assert found.figures["ece_15_post"][5] < found.figures["ece_15_pre"][5] / 2


def test_correlations_are_scipys_on_all_and_on_the_most_accurate(found):
    names = ["ece_15_pre", "ece_15_post", "accuracy"]
    table = found.correlations(names)
    best = np.argsort(-found.figures["accuracy"])[:4]
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            a, b = found.figures[one], found.figures[other]
            assert table[i, j] == pytest.approx(kendalltau(a, b).statistic)
            top = found.correlations(names, top=4)[i, j]
            assert top == pytest.approx(kendalltau(a[best], b[best]).statistic)
    assert found.correlations().shape == (len(found.figures),) * 2


def test_a_measure_over_two_data_sets_is_compared_network_by_network():
    one = Study(["a", "b", "c", "d"], {"ece": np.array([1.0, 2.0, 3.0, 0.0])})
    other = Study(["c", "x", "a", "b"], {"ece": np.array([9.0, -5.0, 7.0, 8.0])})
    assert one.across(other, "ece") == 1
    other.figures["ece"] *= -1
    assert one.across(other, "ece") == -1


def test_a_study_goes_to_a_table_and_back(found, tmp_path):
    found.to_csv(tmp_path / "study.csv")
    again = read_study(tmp_path / "study.csv")
    assert again.names == found.names
    for name, column in found.figures.items():
        assert again.figures[name].tolist() == column.tolist()


@pytest.mark.parametrize("text", ["", "name,ece\n", "name,ece\na,b\n", "name,ece\na\n"])
def test_what_is_no_table_is_refused(text, tmp_path):
    (tmp_path / "study.csv").write_text(text)
    with pytest.raises(AssayError, match="not a table"):
        read_study(tmp_path / "study.csv")


def test_exported_logits_are_read_and_pickles_are_not(tmp_path):
    one = network(1, 2.0)
    arrays = {
        "valid_logits": one.valid_logits.numpy(),
        "valid_target": one.valid_target.numpy(),
        "test_logits": one.test_logits.numpy(),
        "test_target": one.test_target.numpy(),
    }
    np.savez(tmp_path / "net 1.npz", **arrays)
    read = read_predictions(tmp_path / "net 1.npz")
    assert read.name == "net 1"
    assert torch.equal(read.test_logits, one.test_logits)
    for name in ("NATS-tss-v1_0-3ffb9.pickle.pbz2", "net.pth"):
        (tmp_path / name).write_bytes(pickle.dumps(arrays))
        with pytest.raises(AssayError, match="may be a pickle"):
            read_predictions(tmp_path / name)
    np.savez(tmp_path / "half.npz", test_logits=arrays["test_logits"])
    with pytest.raises(AssayError, match="has no array 'valid_logits'"):
        read_predictions(tmp_path / "half.npz")
    np.savez(tmp_path / "objects.npz", **arrays | {"test_logits": np.array([{}], dtype=object)})
    with pytest.raises(AssayError, match="plain arrays"):
        read_predictions(tmp_path / "objects.npz")


def test_studies_that_cannot_be_are_refused(found):
    with pytest.raises(ValueError, match="at least one, of different names"):
        study([])
    with pytest.raises(ValueError, match="different names"):
        study([network(0, 1.0), network(0, 2.0)], bins=(5,))
    with pytest.raises(ValueError, match="same foreign data"):
        study([network(0, 1.0), network(1, 1.0, outside=False)], bins=(5,))
    with pytest.raises(ValueError, match="measure must be one of"):
        found.kendall("ece_15_pre", "ece_16_pre")
    with pytest.raises(ValueError, match="top must be at least 2"):
        found.kendall("ece_15_pre", "ece_5_pre", top=1)
    with pytest.raises(ValueError, match="at least two networks"):
        found.across(Study(["other"], {"accuracy": np.zeros(1)}), "accuracy")


def test_the_example_trains_measures_and_writes_a_study(tmp_path, monkeypatch, capsys):
    out = tmp_path / "study.csv"
    given = ["--networks", "3", "--budget", "5steps", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["calibration_study.py", *given])
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "calibration_study.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("3 networks\n")
    found = read_study(out)
    assert len(found.names) == 3
    assert len(found.figures) == 2 * (5 * 9 + 6) + 3  # and accuracy, temperature, auc_noise
