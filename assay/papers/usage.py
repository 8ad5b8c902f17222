"""USAGE: A Unified Seed Area Generation Paradigm for Weakly Supervised Semantic Segmentation."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="usage",
    title="USAGE: A Unified Seed Area Generation Paradigm for Weakly Supervised Semantic Segmentation",
    authors=("Zelin Peng", "Guanchun Wang", "Lingxi Xie", "Dongsheng Jiang", "Wei Shen", "Qi Tian"),
    year=2023,
    venue="ICCV",
    family="segmentation, localisation, medical",
    summary="Train a classifier so that its activation maps make good segmentation seeds, for CNNs and Transformers "
    "alike: pool the maps with a temperature that sets their spread, and keep them consistent with those of a "
    "moving-average teacher.",
    arxiv="2303.07806",
    headline=(Headline("PASCAL VOC 2012, seeds, gain over the best before, at most (mIoU)", {"USAGE": 4.1}),),
    paper_scale="PASCAL VOC 2012, 10,582 images, DeiT-S, 60 epochs, then PSA and a segmentation net",
)
