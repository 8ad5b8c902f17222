"""Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="srgan",
    title="Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network",
    authors=("Christian Ledig", "Lucas Theis", "Ferenc Huszar", "Jose Caballero"),
    year=2017,
    venue="CVPR",
    family="restoration and reconstruction",
    summary="Enlarge images fourfold with a residual generator trained first on squared error, then on features of a "
    "VGG net and against a discriminator: PSNR falls, people's opinion rises.",
    arxiv="1609.04802",
    headline=(
        Headline("Set5, x4, mean opinion score", {"bicubic": 1.97, "SRResNet": 3.37, "SRGAN": 3.58}),
        Headline("Set14, x4, mean opinion score", {"bicubic": 1.8, "SRResNet": 2.98, "SRGAN": 3.72}),
        Headline("BSD100, x4, mean opinion score", {"bicubic": 1.47, "SRResNet": 2.29, "SRGAN": 3.56}),
        Headline("BSD100, x4, PSNR (dB)", {"bicubic": 25.94, "SRResNet": 27.58, "SRGAN": 25.16}),
    ),
    paper_scale="ImageNet, 350k images, about 1e6 + 2e5 updates",
)
