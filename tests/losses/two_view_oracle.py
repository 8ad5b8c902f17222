"""Contrastive losses written out, pair by pair, in float64."""

import math

import numpy as np


def rows_and_pairs(z1, z2):
    """Unit rows of both views, and for each the row of its positive and those of its negatives."""
    z = np.concatenate([np.asarray(z1, np.float64), np.asarray(z2, np.float64)])
    z = z / np.sqrt((z * z).sum(1, keepdims=True))
    b = len(z1)
    return z, [((i + b) % (2 * b), [j for j in range(2 * b) if j % b != i % b]) for i in range(2 * b)]


def dot(x, y):
    return sum(float(a) * float(b) for a, b in zip(x, y, strict=True))


def info_nce(z1, z2, tau):
    return hard(z1, z2, tau, None)


def dcl(z1, z2, tau, weights=None):
    z, pairs = rows_and_pairs(z1, z2)
    weights = np.ones(len(z)) if weights is None else weights
    return [
        -weights[i] * dot(z[i], z[p]) / tau + math.log(sum(math.exp(dot(z[i], z[j]) / tau) for j in negatives))
        for i, (p, negatives) in enumerate(pairs)
    ]


def vmf_weights(z1, z2, sigma):
    z, _ = rows_and_pairs(z1, z2)
    b = len(z1)
    e = [math.exp(dot(z[i], z[i + b]) / sigma) for i in range(b)]
    return [2 - x / (sum(e) / b) for x in e]


def kept(z, i, negatives, k):
    s = sorted((dot(z[i], z[j]) for j in negatives), reverse=True)
    return s if k is None else s[:k]


def hard(z1, z2, tau, k):
    z, pairs = rows_and_pairs(z1, z2)
    each = []
    for i, (p, negatives) in enumerate(pairs):
        e = math.exp(dot(z[i], z[p]) / tau)
        each.append(-math.log(e / (e + sum(math.exp(s / tau) for s in kept(z, i, negatives, k)))))
    return each


def hard_simple(z1, z2, lam, k):
    z, pairs = rows_and_pairs(z1, z2)
    return [-dot(z[i], z[p]) + lam * sum(kept(z, i, negatives, k)) for i, (p, negatives) in enumerate(pairs)]
