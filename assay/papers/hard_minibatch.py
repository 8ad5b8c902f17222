"""Can we learn better with hard samples?"""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="hard-minibatch",
    title="Can we learn better with hard samples?",
    authors=("Subin Sahayam", "John Zakkam", "Umarani Jayaraman"),
    year=2023,
    venue="arXiv",
    family="optimisers, batch size, memory",
    summary="After one ordinary pass, revisit only those mini-batches whose last loss was highest, within the same "
    "number of optimiser steps.",
    arxiv="2304.03486",
    code="imjohnzakkam/DyBAT",
    headline=(
        Headline(
            "CIFAR-10, test top-1 accuracy (%)",
            {
                "ResNet-18, all batches": 69.6,
                "ResNet-18, half": 69.2,
                "ResNet-50, all batches": 63.1,
                "ResNet-50, half": 64.6,
            },
        ),
        Headline("CIFAR-100, ResNet-18, gain in top-1 accuracy (points)", {"hard batches": 7.26}),
        Headline("STL-10, EfficientNet-B4, fewer epochs to generalise (%)", {"hard batches": 26.47}),
    ),
    paper_scale="CIFAR-100, ResNet-18, batch 64 to 512, SGD, 100 epoch equivalents, half of the batches, 5 seeds",
)
