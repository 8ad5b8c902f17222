import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.engine import Metric, Recipe, Run, Splits, Task, TensorExamples
from assay.errors import AssayError, CannotTreat
from assay.methods.label_smoothing import LabelSmoothing, smoothed


class Blobs(Task):
    name = "blobs"
    metrics = (Metric("loss", "min", 1.1),)
    traits = frozenset({"classification"})

    def splits(self, seed: int) -> Splits:
        g = torch.Generator().manual_seed(seed)
        x, y = torch.randn(60, 4, generator=g), torch.randint(3, (60,), generator=g)
        return Splits(*(TensorExamples(x, y) for _ in range(3)))

    def model(self) -> nn.Module:
        return nn.Linear(4, 3)

    def loss(self, outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        return F.cross_entropy(outputs, targets, reduction=reduction)

    def outcomes(self, model, batch):
        return {"loss": self.loss(model(batch.x), batch.y, "none")}


def _loss_under(method: LabelSmoothing):
    run = Run(Blobs(), Recipe(methods=(method,)), budget="1steps")
    run.build()
    return run.loss


@pytest.mark.parametrize("shape", [(7, 5), (2, 5, 3, 4)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_loss_is_torchs_own_smoothed_cross_entropy(shape, reduction):
    logits = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(5, (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(1))
    expected = F.cross_entropy(logits, targets, reduction=reduction, label_smoothing=0.3)
    torch.testing.assert_close(_loss_under(LabelSmoothing(0.3))(logits, targets, reduction=reduction), expected)


def test_soft_targets_are_smoothed_too():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, dtype=torch.float64, generator=g)
    soft = torch.rand(6, 4, dtype=torch.float64, generator=g).softmax(1)
    expected = F.cross_entropy(logits, soft, label_smoothing=0.2)
    torch.testing.assert_close(_loss_under(LabelSmoothing(0.2))(logits, soft), expected)


def test_smoothed_targets_still_sum_to_one():
    targets = smoothed(torch.tensor([0, 2]), torch.zeros(2, 3), 0.3)
    torch.testing.assert_close(targets, torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]))


def test_zero_smoothing_trains_to_the_same_weights_as_none():
    def weights(*methods):
        run = Run(Blobs(), Recipe(methods=methods, batch_size=10), budget="2epochs")
        run.train()
        return run.model.weight.detach()

    torch.testing.assert_close(weights(LabelSmoothing(0.0)), weights(), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(weights(LabelSmoothing(0.2)), weights(), rtol=1e-3)


def test_evaluation_keeps_the_true_targets():
    run = Run(Blobs(), Recipe(methods=(LabelSmoothing(0.5),)), budget="1steps")
    record = run.train()
    test = run.splits.test
    with torch.no_grad():
        expected = F.cross_entropy(run.model(test.x), test.y)
    assert record.metrics["test"]["loss"] == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_smoothing_outside_its_range_is_refused(smoothing):
    with pytest.raises(AssayError, match=r"smoothing must lie in \[0, 1\)"):
        LabelSmoothing(smoothing)


def test_a_task_that_is_no_classification_is_refused():
    class Regression(Blobs):
        name = "regression"
        traits = frozenset({"images"})

    with pytest.raises(
        CannotTreat, match="cannot treat task 'regression': it needs classification, the task has images"
    ):
        Run(Regression(), Recipe(methods=(LabelSmoothing(),)))
