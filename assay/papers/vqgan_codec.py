"""Extreme Image Compression using Fine-tuned VQGANs."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="vqgan-codec",
    title="Extreme Image Compression using Fine-tuned VQGANs",
    authors=(
        "Qi Mao",
        "Tinghan Yang",
        "Yinuo Zhang",
        "Zijian Wang",
        "Meng Wang",
        "Shiqi Wang",
        "Libiao Jin",
        "Siwei Ma",
    ),
    year=2024,
    venue="DCC",
    family="generation, 3D, codecs",
    summary="Use a pretrained VQGAN as a codec below 0.05 bits per pixel: cluster its codebook to set the rate, "
    "fine-tune only the codebook, and let a Transformer restore indices lost on the way.",
    code="CUC-MIPG/VQGAN-Compression",
    paper_scale="VQGAN of 16,384 codes clustered to 1,024, one epoch on ImageNet, tested on Kodak and CLIC",
)
