"""BiBench: Benchmarking and Analyzing Network Binarization."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="bibench",
    title="BiBench: Benchmarking and Analyzing Network Binarization",
    authors=(
        "Haotong Qin",
        "Mingyuan Zhang",
        "Yifu Ding",
        "Aoyu Li",
        "Zhongang Cai",
        "Ziwei Liu",
        "Fisher Yu",
        "Xianglong Liu",
    ),
    year=2023,
    venue="ICML",
    family="compression and architecture search",
    summary="Put eight ways of binarising weights and activations into the same networks and rank them on six tracks, "
    "from accuracy to hardware. None wins everywhere; soft surrogate gradients and channel-wise scales help most.",
    arxiv="2301.11233",
    code="htqin/BiBench",
    paper_scale="CIFAR-10, ResNet-20 and -18, 400 epochs; ImageNet, ResNet-18, 100 epochs; BERT on GLUE; PointNet; "
    "Speech Commands",
)
