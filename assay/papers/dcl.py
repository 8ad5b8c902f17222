"""Decoupled Contrastive Learning."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="dcl",
    title="Decoupled Contrastive Learning",
    authors=("Chun-Hsiao Yeh", "Cheng-Yao Hong", "Yen-Chi Hsu", "Tyng-Luh Liu", "Yubei Chen", "Yann LeCun"),
    year=2022,
    venue="ECCV",
    family="objectives and representations",
    summary="Take the positive pair out of the denominator of InfoNCE. That removes a factor which shrinks the "
    "gradient when negatives are few or easy, and so the need for large batches; DCLW also weights hard positives "
    "more.",
    arxiv="2110.06848",
    headline=(
        Headline(
            "ImageNet, linear probe, SimCLR, batch 256, 200 epochs, top-1 accuracy (%)", {"InfoNCE": 61.8, "DCL": 68.2}
        ),
        Headline("ImageNet, linear probe, NNCLR, batch 512, 400 epochs, top-1 accuracy (%)", {"DCL": 72.3}),
    ),
    paper_scale="ImageNet, ResNet-50, SimCLR, batch 256, 200 epochs, linear probe",
)
