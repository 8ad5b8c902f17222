"""Mixture of Hidden-Dimensions Transformer."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="mohd",
    title="Mixture of Hidden-Dimensions Transformer",
    authors=("Y. Chen", "Shang", "Z. Zhang", "Sheng", "T. Liu", "S. Wang", "Sun", "H. Wu", "H. Wang"),
    year=2025,
    venue='ICML, as "Mixture of Hidden-Dimensions: Not All Hidden-States\' Dimensions are Needed in Transformer"',
    family="analysis, scaling, theory, data",
    summary="Widen a Transformer's hidden state cheaply: cut it into groups of dimensions, keep a few always on, "
    "route each token to some of the others, and restore the flow by scaled activations and grouped fusion.",
    arxiv="2412.05644",
    headline=(
        Headline(
            "10 language tasks, gain (%)",
            {"half of the parameters activated": 1.7, "3x parameters, as many activated": 3.7},
        ),
    ),
    paper_scale="355M to 1.13B parameters, tens of billions of tokens, 8 to 64 A100 or A800",
)
