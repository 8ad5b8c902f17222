"""EQ-Net: Elastic Quantization Neural Networks."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="eq-net",
    title="EQ-Net: Elastic Quantization Neural Networks",
    authors=("Ke Xu", "Lei Han", "Ye Tian", "Shangshang Yang", "Xingyi Zhang"),
    year=2023,
    venue="ICCV",
    family="compression and architecture search",
    summary="Train one network that can be quantised at run time to any bit width, granularity and symmetry without "
    "retraining: one loss regularises the weights' distribution, another lets high precision guide low.",
    arxiv="2308.07650",
    code="xuke225/EQ-Net",
    paper_scale="ImageNet, pretrained ResNet-18, Adam, 120 epochs",
)
