import pytest
import torch

from assay.nn.gradient_norm_cache import GradientNormCache

CPU = torch.device("cpu")


def tell(cache, ids, norms, key="layer"):
    """One step: forward, and a backward that finds `norms`."""
    with cache.batch(torch.tensor(ids)):
        known = cache.known(key, len(norms), CPU)
        keep = cache.keeper(key, len(norms))
    keep(torch.tensor(norms))
    return known


def asked(cache, ids, rows, key="layer"):
    with cache.batch(torch.tensor(ids)):
        return cache.known(key, rows, CPU)


def test_norms_come_back_by_sample_and_position_and_what_was_never_seen_is_nan():
    cache = GradientNormCache()
    assert tell(cache, [3, 0], [1.0, 2.0, 3.0, 4.0]).isnan().all()
    got = asked(cache, [0, 1, 3], 6)
    assert got[[0, 1, 4, 5]].tolist() == [3.0, 4.0, 1.0, 2.0]
    assert got[2:4].isnan().all()
    assert asked(cache, [3], 2, "another").isnan().all()


def test_the_last_time_counts():
    cache = GradientNormCache()
    tell(cache, [2], [1.0, 1.0])
    assert tell(cache, [2], [4.0, 8.0]).tolist() == [1.0, 1.0]
    assert asked(cache, [2], 2).tolist() == [4.0, 8.0]


def test_samples_may_be_of_any_length_and_batches_of_any_size():
    cache = GradientNormCache()
    tell(cache, [0, 1], [1.0, 2.0])
    tell(cache, [1], [5.0, 6.0, 7.0])
    tell(cache, [400], [9.0, 9.0])
    got = asked(cache, [0, 1, 400], 9).view(3, 3)
    assert got[0, 0] == 1.0
    assert got[0, 1:].isnan().all()
    assert got[1].tolist() == [5.0, 6.0, 7.0]
    assert got[2, :2].tolist() == [9.0, 9.0]
    assert got[2, 2].isnan()
    assert asked(cache, [1], 2).tolist() == [5.0, 6.0]


def test_outside_a_batch_nothing_is_known_or_kept():
    cache = GradientNormCache()
    assert cache.known("layer", 4, CPU) is None
    assert cache.keeper("layer", 4) is None


def test_state_goes_through_a_file_and_holds_the_last_backward(tmp_path):
    cache, other = GradientNormCache(), GradientNormCache()
    tell(cache, [1], [2.0, 0.5])
    torch.save(cache.state_dict(), tmp_path / "cache.pt")
    other.load_state_dict(torch.load(tmp_path / "cache.pt", weights_only=True))
    assert asked(other, [1], 2).tolist() == [2.0, 0.5]


def test_a_state_that_was_loaded_is_not_written_to():
    cache, other = GradientNormCache(), GradientNormCache()
    tell(cache, [1], [2.0])
    other.load_state_dict(cache.state_dict())
    tell(other, [1], [8.0])
    assert asked(other, [1], 1).tolist() == [8.0]
    assert asked(cache, [1], 1).tolist() == [2.0]


def test_what_does_not_fit_is_refused():
    cache = GradientNormCache()
    with pytest.raises(ValueError, match="'layer' must have as many rows for each of 2 ids, got 5 rows"):
        tell(cache, [0, 1], [1.0] * 5)
    with pytest.raises(ValueError, match="ids must be 0 or more, got -1"):
        asked(cache, [-1], 2)
