"""S3IM: Stochastic Structural SIMilarity and Its Unreasonable Effectiveness for Neural Fields."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="s3im",
    title="S3IM: Stochastic Structural SIMilarity and Its Unreasonable Effectiveness for Neural Fields",
    authors=(
        "Zeke Xie",
        "Xindi Yang",
        "Yujie Yang",
        "Qi Sun",
        "Yixiang Jiang",
        "Haoran Wang",
        "Yunfeng Cai",
        "Mingming Sun",
    ),
    year=2023,
    venue="ICCV",
    family="generation, 3D, codecs",
    summary="Lay out a batch of random rays as a picture, shuffle it several times and add one minus its SSIM against "
    "the true colours to the loss, so that a neural field is held to the rays as a set.",
    arxiv="2308.07032",
    code="Madaoer/S3IM-Neural-Fields",
    headline=(Headline("eight scenes, NeuS, change by S3IM (%)", {"F-score": 198, "Chamfer L1": -64}),),
    paper_scale="eight scenes of Replica, TensoRF, 4096 rays, 30k iterations",
)
