"""Not All Pixels Are Equal: Learning Pixel Hardness for Semantic Segmentation."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="pixel-hardness",
    title="Not All Pixels Are Equal: Learning Pixel Hardness for Semantic Segmentation",
    authors=("Xin Xiao", "Daiguo Zhou", "Jiagao Hu", "Yi Hu", "Yongchao Xu"),
    year=2023,
    venue="arXiv",
    family="segmentation, localisation, medical",
    summary="A second head learns a map of how hard each pixel is by maximising the weighted segmentation loss under "
    "a fixed total weight, while the segmentation head minimises it; the head is dropped at test time.",
    arxiv="2305.08462",
    code="Menoly-xin/Hardness-Level-Learning",
    headline=(
        Headline(
            "Cityscapes val, PSPNet R18, mIoU (%)", {"cross-entropy": 74.3, "OHEM": 74.23, "focal": 73.35, "HL": 75.6}
        ),
        Headline(
            "Cityscapes val, PSPNet R101, mIoU (%)", {"cross-entropy": 79.6, "OHEM": 79.64, "focal": 78.95, "HL": 80.65}
        ),
        Headline("ADE20K, PSPNet R101, mIoU (%)", {"cross-entropy": 44.6, "HL": 45.2}),
        Headline("iSAID, PSPNet R18, mIoU (%)", {"cross-entropy": 60.76, "HL": 62.93}),
    ),
    paper_scale="Cityscapes, PSPNet-R101, crops of 769 pixels, 40k iterations, 4 GPUs",
)
