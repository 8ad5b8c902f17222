"""SPOCKMIP: Segmentation of Vessels in MRAs with Enhanced Continuity using Maximum Intensity Projection as Loss."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="mip-loss",
    title="SPOCKMIP: Segmentation of Vessels in MRAs with Enhanced Continuity using Maximum Intensity Projection as "
    "Loss",
    authors=(
        "Chethan Radhakrishna",
        "Karthikesh Varma Chintalapati",
        "Sri Chandana Hudukula Ram Kumar",
        "Raviteja Sutrave",
        "Hendrik Mattern",
        "Oliver Speck",
        "Andreas Nuernberger",
        "Soumick Chatterjee",
    ),
    year=2024,
    venue="arXiv",
    family="segmentation, localisation, medical",
    summary="Segment vessels in 3D patches with an added loss on projections: the maximum of the prediction along one "
    "axis, or all three, is compared with that of the labels, where a broken vessel shows as a gap.",
    arxiv="2407.08655",
    code="soumickmj/SPOCKMIP",
    headline=(
        Headline(
            "7 T TOF-MRA, unseen volumes, median Dice (%)",
            {"single-axis MIP loss": 79.749, "multi-axis MIP loss": 80.245},
        ),
    ),
    paper_scale="StudyForrest, U-Net-MSS, projections along all axes",
)
