"""Learning from Aggregate Responses: Instance Level versus Bag Level Loss Functions."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="aggregate-responses",
    title="Learning from Aggregate Responses: Instance Level versus Bag Level Loss Functions",
    authors=("Adel Javanmard", "Lin Chen", "Vahab Mirrokni", "Ashwinkumar Badanidiyuru", "Gang Fu"),
    year=2024,
    venue="ICLR",
    family="objectives and representations",
    summary="When only the mean response of a bag of samples is known, fitting every sample to it equals fitting the "
    "bag's mean plus a penalty on the spread within the bag; a weight on that penalty gives an estimator between the "
    "two.",
    arxiv="2401.11081",
)
