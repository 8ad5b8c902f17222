import pytest
import torch
from workloads import blobs

from assay.engine import GrowingStream, ShuffledStream, TensorExamples


def examples(n: int) -> TensorExamples:
    return TensorExamples(torch.arange(n).float()[:, None], torch.arange(n))


def drawn(stream: ShuffledStream, steps: int) -> list[torch.Tensor]:
    return [stream.next().ids for _ in range(steps)]


def test_every_sample_comes_once_an_epoch_in_another_order_each_time():
    stream = ShuffledStream(examples(20), 5, seed=3)
    epochs = [torch.cat(drawn(stream, 4)) for _ in range(3)]
    for order in epochs:
        assert sorted(order.tolist()) == list(range(20))
    assert len({tuple(order.tolist()) for order in epochs}) == 3


def test_what_does_not_fill_a_batch_is_left_out_that_epoch_and_not_for_ever():
    stream = ShuffledStream(examples(10), 4, seed=0)
    assert stream.steps_per_epoch == 2
    seen = set()
    for _ in range(20):
        order = torch.cat(drawn(stream, 2)).tolist()
        assert len(set(order)) == 8
        seen |= set(order)
    assert seen == set(range(10))


def test_the_order_is_the_seeds_and_does_not_depend_on_the_batch_size():
    def order(batch_size, seed):
        return torch.cat(drawn(ShuffledStream(examples(24), batch_size, seed), 24 // batch_size)).tolist()

    assert order(4, 1) == order(8, 1) == order(24, 1)
    assert order(4, 1) != order(4, 2)


def test_a_batch_is_the_examples_of_its_ids():
    batch = ShuffledStream(examples(9), 3, seed=5).next()
    assert torch.equal(batch.x[:, 0], batch.ids.float())
    assert torch.equal(batch.y, batch.ids)
    assert batch.ids.dtype == torch.int64


def test_the_epoch_counts_the_part_of_the_present_pass():
    stream = ShuffledStream(examples(12), 4, seed=0)
    found = []
    for _ in range(6):
        found.append(stream.epoch)
        stream.next()
    assert [*found, stream.epoch] == pytest.approx([0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])


def test_fewer_samples_than_a_batch_make_one_batch():
    stream = ShuffledStream(examples(3), 64, seed=0)
    assert stream.steps_per_epoch == 1
    assert len(stream.next().ids) == 3


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="at least one sample, got none"):
        ShuffledStream(examples(0), 4, seed=0)


@pytest.mark.parametrize("before", [0, 3, 4, 7])
def test_a_stream_goes_on_where_its_state_was_taken(before):
    whole = ShuffledStream(blobs(40, 3, 2, 0), 10, seed=1, augment_seed=2)
    for _ in range(before):
        whole.next()
    other = ShuffledStream(blobs(40, 3, 2, 0), 10, seed=1, augment_seed=2)
    other.next()  # what it did before must not matter
    other.load_state_dict(whole.state_dict())
    for _ in range(9):
        a, b = whole.next(), other.next()
        assert torch.equal(a.ids, b.ids)
        assert torch.equal(a.x, b.x)
    assert whole.epoch == other.epoch


def test_augmentation_draws_from_its_own_generator_in_training_only():
    data = blobs(40, 3, 2, 0)
    one, two = (ShuffledStream(data, 10, seed=1, augment_seed=s).next() for s in (1, 2))
    assert torch.equal(one.ids, two.ids)
    assert not torch.equal(one.x, two.x)
    assert torch.equal(data.batch(one.ids)[0], data.x[one.ids])


def test_a_growing_stream_has_every_sample_once_an_epoch_in_the_order_of_a_steady_one():
    stream = GrowingStream(examples(20), 3, seed=3)
    ids, epochs = [], []
    for size in (3, 4, 11, 20, 2):
        stream.batch_size = size
        ids += stream.next().ids.tolist()
        epochs.append(stream.epoch)
    assert ids == [i for batch in drawn(ShuffledStream(examples(20), 5, seed=3), 8) for i in batch.tolist()]
    assert epochs == pytest.approx([3 / 20, 7 / 20, 18 / 20, 38 / 20, 2])
    assert stream.steps_per_epoch == 10


@pytest.mark.parametrize("before", [0, 2, 5])
def test_a_growing_stream_goes_on_where_its_state_was_taken(before):
    def steps(stream, count):
        found = []
        for _ in range(count):
            found.append(stream.next())
            stream.batch_size = min(stream.batch_size + 7, 40)
        return found

    def make():
        return GrowingStream(blobs(40, 3, 2, 0), 10, seed=1, augment_seed=2)

    whole, other = make(), make()
    steps(whole, before)
    other.next()  # what it did before must not matter
    other.load_state_dict(whole.state_dict())
    for a, b in zip(steps(whole, 6), steps(other, 6), strict=True):
        assert torch.equal(a.ids, b.ids)
        assert torch.equal(a.x, b.x)
    assert whole.epoch == other.epoch
