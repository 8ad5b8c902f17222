"""TopoMortar: A dataset to evaluate image segmentation methods focused on topology accuracy."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="topomortar",
    title="TopoMortar: A dataset to evaluate image segmentation methods focused on topology accuracy",
    authors=("Juan Miguel Valverde", "Motoya Koga", "Nijihiko Otsuka", "Anders Bjorholm Dahl"),
    year=2025,
    venue="BMVC",
    family="segmentation, localisation, medical",
    summary="A data set of brick walls, whose mortar is one connected net of loops, and a protocol without the usual "
    "confounders, to see which topology losses use what is known about topology; eight losses are compared.",
    arxiv="2503.03365",
    code="jmlipman/TopoMortar",
    headline=(
        Headline(
            "accurate labels, in distribution, error of Betti number 0",
            {"CEDice": 3.31, "clDice": 1.17, "SkelRecall": 3.08},
        ),
        Headline(
            "accurate labels, out of distribution, error of Betti number 0",
            {"CEDice": 197, "clDice": 81, "SkelRecall": 180},
        ),
        Headline(
            "RandHue, in distribution, error of Betti number 0", {"CEDice": 1.9, "clDice": 0.56, "SkelRecall": 2.0}
        ),
        Headline(
            "RandHue, out of distribution, error of Betti number 0",
            {"CEDice": 69.7, "clDice": 16.5, "SkelRecall": 65.5},
        ),
    ),
    paper_scale="50 training images of 512 pixels, 12,000 iterations, batch 10, 10 seeds, one GPU",
)
