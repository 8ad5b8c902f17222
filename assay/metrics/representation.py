"""What embeddings are worth, by the labels of others: their nearest neighbours', or a linear classifier's.

Source: Wu et al., "Unsupervised feature learning via non-parametric instance discrimination" (2018), section 3.4.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def nearest_neighbour_classes(
    queries: Float[Tensor, "queries dim"],
    bank: Float[Tensor, "bank dim"],
    labels: Int64[Tensor, " bank"],
    *,
    k: int = 200,
    temperature: float = 0.1,
) -> Int64[Tensor, " queries"]:
    """The class of each query by a vote of the k labelled embeddings most similar to it, weighted by exp(s / tau).

    Args:
        queries: embeddings to be classified, made of length 1 here.
        bank: labelled embeddings, likewise.
        labels: their classes, from 0.
        k: voters, positive; all of the bank where it has fewer.
        temperature: tau > 0.

    Raises:
        ValueError: the bank is empty, or a number is not positive.

    Source: Wu et al. 2018, section 3.4.
    """
    if not len(bank) or len(bank) != len(labels):
        raise ValueError(f"bank must hold embeddings with a label each, got {len(bank)} and {len(labels)} labels")
    if k < 1 or not 0 < temperature < math.inf:
        raise ValueError(f"k and temperature must be positive, got {k} and {temperature}")
    queries, bank = F.normalize(queries), F.normalize(bank)
    classes = int(labels.max()) + 1
    found = []
    for rows in torch.split(queries, 500):  # so that similarities take little memory
        similar, who = (rows @ bank.T).topk(min(k, len(bank)))
        weights = ((similar - similar[:, :1]) / temperature).exp()
        found.append(weights.new_zeros(len(rows), classes).scatter_add_(1, labels[who], weights).argmax(1))
    return torch.cat(found)


def linear_probe_classes(
    queries: Float[Tensor, "queries dim"],
    bank: Float[Tensor, "bank dim"],
    labels: Int64[Tensor, " bank"],
    *,
    penalty: float = 1e-3,
    steps: int = 100,
) -> Int64[Tensor, " queries"]:
    """The class of each query by a multinomial logistic regression on the labelled embeddings.

    Args:
        queries: embeddings to be classified.
        bank: labelled embeddings, by whose mean and deviation both are standardised.
        labels: their classes, from 0.
        penalty: of the squared weights, against the mean loss of an embedding.
        steps: of L-BFGS, at most.

    Raises:
        ValueError: the bank has fewer than two classes.
    """
    from sklearn.linear_model import LogisticRegression

    y = labels.cpu().numpy()
    if len(bank) != len(y) or len(np.unique(y)) < 2:
        raise ValueError(f"labels must be one a row of the bank and of two classes at least, got {len(np.unique(y))}")
    mean, deviation = bank.mean(0), bank.std(0).clamp_min(1e-6)
    x, queried = (((part - mean) / deviation).double().cpu().numpy() for part in (bank, queries))
    probe = LogisticRegression(C=1 / (2 * penalty * len(y)), max_iter=steps, tol=1e-3)
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():  # it is stopped on purpose
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(x, y)
    return torch.from_numpy(probe.predict(queried).astype(np.int64)).to(labels.device)
