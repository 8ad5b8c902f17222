"""Preserving Tumor Volumes for Unsupervised Medical Image Registration."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="volume-preserving-registration",
    title="Preserving Tumor Volumes for Unsupervised Medical Image Registration",
    authors=("Qihua Dong", "Hao Du", "Ying Song", "Yan Xu", "Jing Liao"),
    year=2023,
    venue="ICCV",
    family="segmentation, localisation, medical",
    summary="Register images without shrinking tumours: a first network marks, without labels, where the organ is "
    "squeezed too much; a second is trained with a volume-preserving loss there and less weight on similarity.",
    arxiv="2309.10153",
    code="dddraxxx/Medical-Reg-with-Volume-Preserving",
    paper_scale="liver CT of LiTS and MSD, VTN, Adam 1e-4, batch 4, 5 epochs of 20,000 iterations",
)
