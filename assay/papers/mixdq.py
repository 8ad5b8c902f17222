"""MixDQ."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="mixdq",
    title="MixDQ: Memory-Efficient Few-Step Text-to-Image Diffusion Models with Metric-Decoupled Mixed Precision "
    "Quantization",
    authors=(
        "Tianchen Zhao",
        "Xuefei Ning",
        "Tongcheng Fang",
        "Enshu Liu",
        "Guyue Huang",
        "Zinan Lin",
        "Shengen Yan",
        "Guohao Dai",
        "Yu Wang",
    ),
    year=2024,
    venue="ECCV",
    family="compression and architecture search",
    summary="Quantise few-step text-to-image models after training: keep the keys and values of the first prompt "
    "token in full precision, measure layers that shape content and quality each by its own metric, and allot bits by "
    "integer programming.",
    arxiv="2405.17873",
    code="thu-nics/MixDQ",
    headline=(
        Headline("SDXL-Turbo, static memory (MB)", {"baseline": 4998, "MixDQ W8A8": 2575}),
        Headline("SDXL-Turbo, peak memory (MB)", {"baseline": 5239, "MixDQ W8A8": 2631}),
        Headline("SDXL-Turbo, U-Net latency on an RTX 3090 (ms)", {"baseline": 43.6, "MixDQ W8A8": 34.2}),
        Headline("SDXL-Turbo, U-Net latency on an A100 (ms)", {"baseline": 30.7, "MixDQ W8A8": 28.8}),
    ),
    paper_scale="SDXL-Turbo, 1024 calibration prompts, weights of 8, 5 and 4 bits, 30k COCO prompts",
)
