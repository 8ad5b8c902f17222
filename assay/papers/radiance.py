"""RADIANCE: Radio-Frequency Adversarial Deep-learning Inference for Automated Network Coverage Estimation."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="radiance",
    title="RADIANCE: Radio-Frequency Adversarial Deep-learning Inference for Automated Network Coverage Estimation",
    authors=("Sopan Sarkar", "Mohammad Hossein Manshaei", "Marwan Krunz"),
    year=2023,
    venue="arXiv",
    family="generation, 3D, codecs",
    summary="Predict indoor radio coverage with a conditional GAN from a semantic map, the antenna's pattern and the "
    "frequency, in place of ray tracing; what is new is a loss on the gradient of signal strength.",
    arxiv="2308.10584",
    headline=(
        Headline(
            "indoor coverage maps, against ray tracing", {"MAE": 0.09, "RMSE": 0.29, "PSNR (dB)": 10.78, "MS-SSIM": 0.8}
        ),
    ),
    paper_scale="ray-traced indoor maps at 256 x 256, 200 epochs",
)
