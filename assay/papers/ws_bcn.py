"""Micro-Batch Training with Batch-Channel Normalization and Weight Standardization."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="ws-bcn",
    title="Micro-Batch Training with Batch-Channel Normalization and Weight Standardization",
    authors=("Siyuan Qiao", "Huiyu Wang", "Chenxi Liu", "Wei Shen", "Alan Yuille"),
    year=2019,
    venue="arXiv",
    family="normalisation, regularisation, adaptation",
    summary="Two pieces for training with one or two images a device: standardise every convolution filter in the "
    "forward pass, and follow a batch normalisation, which may use running estimates, by a channel normalisation.",
    arxiv="1903.10520",
    code="joe-siyuan-qiao/WeightStandardization",
    headline=(
        Headline(
            "ImageNet, top-1 error (%), group norm with weight standardisation",
            {"ResNet-50": 23.72, "ResNet-101": 22.1, "ResNeXt-50": 22.71, "ResNeXt-101": 21.8},
        ),
        Headline("PASCAL VOC val, DeepLabV3 R101, mIoU (%)", {"BN": 76.49, "GN+WS": 77.2, "BCN+WS": 78.1}),
    ),
    paper_scale="ImageNet, ResNet-50, 32 groups, SGD 0.1, batch 256, 90 epochs",
)
