"""Region-Adaptive Transform with Segmentation Prior for Image Compression."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="segpic",
    title="Region-Adaptive Transform with Segmentation Prior for Image Compression",
    authors=("Yuxi Liu", "Wenhan Yang", "Huihui Bai", "Yunchao Wei", "Yao Zhao"),
    year=2024,
    venue="ECCV",
    family="generation, 3D, codecs",
    summary="A learnt image codec whose convolutions adapt to the region of each pixel: regions are segmentation "
    "masks in training and a plain grid in use, so that no masks are sent.",
    arxiv="2403.00628",
    code="GityuxiLiu/SegPIC-for-Image-Compression",
    headline=(
        Headline("bit rate saved against VTM-17.0 (%)", {"SegPIC": 8.2}),
        Headline(
            "Kodak, PSNR (dB) by bits per pixel",
            {"0.120": 29.24, "0.194": 30.76, "0.288": 32.25, "0.439": 34.23, "0.633": 36.01, "0.861": 37.81},
        ),
    ),
    paper_scale="COCO 2017, crops of 256, batch 32, Adam 1e-4, 400 epochs, six rates, tested on Kodak and CLIC",
)
