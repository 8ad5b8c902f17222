"""Topologically faithful image segmentation via induced matching of persistence barcodes."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="betti-matching",
    title="Topologically faithful image segmentation via induced matching of persistence barcodes",
    authors=("Nico Stucki", "Johannes C. Paetzold", "Suprosanna Shit", "Bjoern Menze", "Ulrich Bauer"),
    year=2023,
    venue="ICML",
    family="segmentation, localisation, medical",
    summary="Compare the topology of two segmentations by matching bars of their persistence barcodes only where both "
    "stand for the same feature in the same place; unmatched features make a loss and, on binary images, an error "
    "count.",
    arxiv="2211.15272",
    code="nstucki/Betti-matching",
    paper_scale="CREMI, 312 x 312, residual U-Net, Adam 1e-3, 100 epochs, weight 0.5",
)
