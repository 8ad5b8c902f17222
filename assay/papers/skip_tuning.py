"""The Surprising Effectiveness of Skip-Tuning in Diffusion Sampling."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="skip-tuning",
    title="The Surprising Effectiveness of Skip-Tuning in Diffusion Sampling",
    authors=(
        "Jiajun Ma",
        "Shuchen Xue",
        "Tianyang Hu",
        "Wenjia Wang",
        "Zhaoqiang Liu",
        "Zhenguo Li",
        "Zhi-Ming Ma",
        "Kenji Kawaguchi",
    ),
    year=2024,
    venue="ICML",
    family="generation, 3D, codecs",
    summary="Scale down the skip connections of a pretrained diffusion U-Net while sampling: FID improves without "
    "training, most with few steps, although the score-matching loss in pixel space gets worse.",
    arxiv="2402.15170",
    headline=(
        Headline(
            "ImageNet 64 x 64, FID",
            {
                "EDM, skip-tuned, 19 evaluations": 1.75,
                "EDM, skip-tuned, 39 evaluations": 1.57,
                "EDM-2, best, untuned": 1.58,
            },
        ),
    ),
    paper_scale="ImageNet 64 x 64, pretrained EDM, 10 and 20 Heun steps, 50k samples",
)
