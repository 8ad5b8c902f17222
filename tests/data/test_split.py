import numpy as np
import pytest

from assay.data.split import stratified_split

LABELS = np.repeat([0, 1, 2], [600, 300, 100])


def test_parts_are_disjoint_and_have_their_sizes() -> None:
    parts = stratified_split(LABELS, (500, 200, 300), seed=2**55 + 1)
    assert [len(part) for part in parts] == [500, 200, 300]
    assert sorted(np.concatenate(parts)) == list(range(1000))


def test_classes_have_the_proportions_of_the_whole_within_one_sample() -> None:
    for part in stratified_split(LABELS, (333, 77), seed=0):
        np.testing.assert_allclose(np.bincount(LABELS[part]), len(part) * np.array([0.6, 0.3, 0.1]), atol=1)


def test_the_seed_decides() -> None:
    one, same, other = (stratified_split(LABELS, (500, 100), seed)[0] for seed in (1, 1, 2))
    assert one.tolist() == same.tolist()
    assert one.tolist() != other.tolist()


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at most the 1000 samples, got \[900, 101\]"):
        stratified_split(LABELS, (900, 101), seed=0)
