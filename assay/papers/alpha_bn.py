"""Test-time Batch Statistics Calibration for Covariate Shift."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="alpha-bn",
    title="Test-time Batch Statistics Calibration for Covariate Shift",
    authors=("Fuming You", "Jingjing Li", "Zhou Zhao"),
    year=2021,
    venue="arXiv",
    family="normalisation, regularisation, adaptation",
    summary="On shifted test data, mix the statistics stored in each batch normalisation with those of the test batch "
    "(alpha-BN). Core adds one gradient step a batch that makes the predicted classes less correlated.",
    arxiv="2110.04065",
    headline=(Headline("GTA5 to Cityscapes, mIoU (%)", {"source model": 28.4, "alpha-BN": 43.9}),),
    paper_scale="CIFAR-10-C, severity 5, WRN-28-10, batch 200; ImageNet-C, ResNet-50; GTA5 to Cityscapes, DeepLab",
)
