"""Improved Training Technique for Latent Consistency Models."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="latent-consistency",
    title="Improved Training Technique for Latent Consistency Models",
    authors=("Quan Dao", "Khanh Doan", "Di Liu", "Trung Le", "Dimitris Metaxas"),
    year=2025,
    venue="ICLR",
    family="generation, 3D, codecs",
    summary="Train consistency models from scratch on latents, whose outliers spoil the usual recipe: a Cauchy loss, "
    "a diffusion loss at low noise, optimal-transport pairing, a robustness constant on a schedule and a LayerNorm "
    "without scale.",
    arxiv="2502.01441",
    code="quandao10/LCT",
    paper_scale="CelebA-HQ 256 latents, ADM U-Net, batch 128, 1400 epochs, RAdam 1e-4",
)
