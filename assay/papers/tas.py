"""Network Pruning via Transformable Architecture Search."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="tas",
    title="Network Pruning via Transformable Architecture Search",
    authors=("Xuanyi Dong", "Yi Yang"),
    year=2019,
    venue="NeurIPS",
    family="compression and architecture search",
    summary="Prune by searching for the sizes of a network: distributions over widths and depths are learnt with a "
    "penalty on FLOPs, and the likeliest size is trained from scratch under distillation from the unpruned net.",
    arxiv="1905.09717",
    code="D-X-Y/AutoDL-Projects",
    paper_scale="CIFAR-10 and CIFAR-100, ResNet-56, -110 and -164, 300 epochs with distillation; ImageNet, ResNet-18 "
    "and -50, 120 epochs",
)
