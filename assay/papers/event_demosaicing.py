"""Event Camera Demosaicing via Swin Transformer and Pixel-focus Loss."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="event-demosaicing",
    title="Event Camera Demosaicing via Swin Transformer and Pixel-focus Loss",
    authors=("Yunfan Lu", "Yijie Xu", "Wenzong Ma", "Weiyu Guo", "Hui Xiong"),
    year=2024,
    venue="CVPR workshop (MIPI)",
    family="restoration and reconstruction",
    summary="Demosaic sensors whose event pixels lack colour with a U-shaped Swin Transformer, trained by a "
    "Charbonnier loss and then fine-tuned by a loss that dwells on the few pixels with large errors.",
    arxiv="2404.02731",
    paper_scale="MIPI 2024 HybridEVS, crops of 256, Adam 1e-4, one GPU of 24 GB",
)
