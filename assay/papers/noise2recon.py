"""Noise2Recon: Enabling Joint MRI Reconstruction and Denoising with Semi-Supervised and Self-Supervised Learning."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="noise2recon",
    title="Noise2Recon: Enabling Joint MRI Reconstruction and Denoising with Semi-Supervised and Self-Supervised "
    "Learning",
    authors=(
        "Arjun D. Desai",
        "Batu M. Ozturkler",
        "Christopher M. Sandino",
        "Shreyas Vasanawala",
        "Brian A. Hargreaves",
        "Christopher Re",
        "John M. Pauly",
        "Akshay S. Chaudhari",
    ),
    year=2023,
    venue="Magnetic Resonance in Medicine",
    family="restoration and reconstruction",
    summary="Train MRI reconstruction on few fully sampled scans and, on undersampled ones, ask that adding noise to "
    "the k-space does not change the reconstruction; it denoises, and holds up at low signal.",
    arxiv="2110.00075",
    code="ad12/meddlr",
    headline=(
        Headline(
            "mridata 3D FSE knee, fully sampled scans for the same quality, times Noise2Recon's", {"supervised": 14}
        ),
    ),
    paper_scale="mridata 3D FSE knee, 12x and 16x acceleration, unrolled network of 8 steps, one GPU",
)
