"""Memory Efficient 3D U-Net with Reversible Mobile Inverted Bottlenecks for Brain Tumor Segmentation."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="reversible-unet3d",
    title="Memory Efficient 3D U-Net with Reversible Mobile Inverted Bottlenecks for Brain Tumor Segmentation",
    authors=(
        "Mihir Pendse",
        "Vithursan Thangarasa",
        "Vitaliy Chiley",
        "Ryan Holmdahl",
        "Joel Hestness",
        "Dennis DeCoste",
    ),
    year=2020,
    venue="BrainLes workshop at MICCAI",
    family="segmentation, localisation, medical",
    summary="Build a 3D U-Net of reversible blocks, whose inputs are recomputed in the backward pass, with mobile "
    "inverted bottlenecks as their branches, so that only thin tensors are stored.",
    arxiv="2104.09648",
    headline=(
        Headline(
            "what fits the same memory, at most, times the non-reversible net's",
            {"volume": 3, "depth": 1.25, "channels": 2},
        ),
    ),
    paper_scale="BraTS 2020, whole volumes of 240 x 240 x 155, one GPU of 16 to 32 GB, 300 to 500 epochs",
)
