"""Denoising as Adaptation: Noise-Space Domain Adaptation for Image Restoration."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="noise-space-adaptation",
    title="Denoising as Adaptation: Noise-Space Domain Adaptation for Image Restoration",
    authors=("Kang Liao", "Zongsheng Yue", "Zhouxia Wang", "Chen Change Loy"),
    year=2025,
    venue="ICLR",
    family="restoration and reconstruction",
    summary="Adapt a restorer from synthetic to real images by a diffusion model used only in training: it denoises a "
    "clean image given the restored ones, and its error tells the restorer how far these are from clean.",
    arxiv="2406.18516",
    code="KangLiao929/Noise-DA",
    paper_scale="DFWB to SIDD, Rain13K to SPA, GoPro to RealBlur-J, 8 GPUs",
)
