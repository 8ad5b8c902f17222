"""Trained Rank Pruning for Efficient Deep Neural Networks."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="trained-rank-pruning",
    title="Trained Rank Pruning for Efficient Deep Neural Networks",
    authors=(
        "Yuhui Xu",
        "Yuxi Li",
        "Shuai Zhang",
        "Wei Wen",
        "Botao Wang",
        "Yingyong Qi",
        "Yiran Chen",
        "Weiyao Lin",
        "Hongkai Xiong",
    ),
    year=2020,
    venue="IJCAI",
    family="compression and architecture search",
    summary="Make convolution kernels low-rank during training: every few steps each is cut to its leading singular "
    "values, and a nuclear-norm subgradient pushes the others down, so that factorising at the end costs almost "
    "nothing.",
    arxiv="2004.14566",
    code="yuhuixu1993/Trained-Rank-Pruning",
    headline=(
        Headline(
            "CIFAR-10, ResNet-20, accuracy (%)",
            {"dense": 91.74, "channel, 2.17x fewer FLOPs": 90.5, "spatial, 2.84x fewer FLOPs": 90.62},
        ),
        Headline(
            "CIFAR-10, ResNet-32, accuracy (%)",
            {"dense": 92.26, "channel, 2.2x fewer FLOPs": 91.4, "spatial, 3.4x fewer FLOPs": 91.39},
        ),
        Headline(
            "ImageNet, ResNet-50, top-1 accuracy (%)",
            {"dense": 75.9, "channel, 1.80x fewer FLOPs": 74.06, "channel, 2.23x fewer FLOPs": 72.69},
        ),
    ),
    paper_scale="CIFAR-10, ResNet-20, -32 and -56, 164 epochs; ImageNet, pretrained ResNet-18 and -50",
)
