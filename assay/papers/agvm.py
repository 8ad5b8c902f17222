"""Large-batch Optimization for Dense Visual Predictions."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="agvm",
    title="Large-batch Optimization for Dense Visual Predictions",
    authors=("Zeyue Xue", "Jianming Liang", "Guanglu Song", "Zhuofan Zong", "Liang Chen", "Yu Liu", "Ping Luo"),
    year=2022,
    venue="NeurIPS",
    family="optimisers, batch size, memory",
    summary="In detectors and segmenters the gradient variances of backbone, neck and heads drift apart as the batch "
    "grows. AGVM estimates each from two halves of the batch and scales the modules' learning rates to bring them "
    "together.",
    arxiv="2210.11078",
    code="Sense-X/AGVM",
    headline=(
        Headline(
            "COCO, Faster R-CNN R50, box mAP, by batch size",
            {"baseline, 32": 37.1, "baseline, 256": 36.7, "AGVM, 256": 37.1, "baseline, 512": 36.2, "AGVM, 512": 36.8},
        ),
        Headline(
            "COCO, Mask R-CNN R50, segmentation mAP, by batch size",
            {"baseline, 32": 34.8, "baseline, 256": 34.4, "AGVM, 256": 35.0, "baseline, 512": 33.9, "AGVM, 512": 34.6},
        ),
    ),
    paper_scale="COCO, Faster R-CNN R50-FPN, batch 256 to 1536, 16 epochs, 16 GPUs or more",
)
