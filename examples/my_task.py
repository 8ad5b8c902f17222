"""A task of one's own: predict how diabetes progresses from ten measurements, judged by the absolute error.

assay compare examples/my_task.py:task --with NAME
"""

import torch
from sklearn.datasets import load_diabetes
from torch import nn

from assay.engine import Batch, Metric, Recipe, Splits, Task, TensorExamples


class Diabetes(Task):
    name = "diabetes"
    metrics = (Metric("error", goal="min", worst=1.6, unit="sd"),)  # worst: for a run that diverges
    recipe = Recipe(optimizer="adamw", lr=3e-3, batch_size=32, schedule="cosine")  # what is ordinary here
    budget = "30epochs"
    varies = frozenset({"init", "order", "split"})  # a seed redraws the split as well

    def splits(self, seed: int) -> Splits:
        x, y = (torch.tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True))
        x, y = x / x.std(dim=0), (y - y.mean()) / y.std()
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        return Splits(*(TensorExamples(x[ids], y[ids]) for ids in order.split([282, 80, 80])))

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))

    def loss(self, outputs, targets, reduction="mean"):  # what training minimises
        return nn.functional.mse_loss(outputs, targets, reduction=reduction)

    def outcomes(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:  # one value an example and metric
        return {"error": (model(batch.x) - batch.y).abs()}


task = Diabetes()
