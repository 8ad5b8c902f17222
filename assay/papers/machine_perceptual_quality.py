"""Machine Perceptual Quality: Evaluating the Impact of Severe Lossy Compression on Audio and Image Models."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="machine-perceptual-quality",
    title="Machine Perceptual Quality: Evaluating the Impact of Severe Lossy Compression on Audio and Image Models",
    authors=("Dan Jacobellis",),
    year=2024,
    venue="DCC",
    family="generation, 3D, codecs",
    summary="Pass data through strong lossy codecs, run fixed pretrained models on what remains and compare task "
    "performance with rate and quality: generative codecs hurt machines least, and learnt similarity tells more than "
    "PSNR.",
    code="danjacobellis/MPQ",
    headline=(
        Headline(
            "ImageNet, first 1000 images, ViT-B/16, top-1 accuracy, from the code's output",
            {"uncompressed": 0.799, "JPEG": 0.639, "WEBP": 0.72, "mbt2018": 0.733, "HiFiC": 0.795},
        ),
    ),
    paper_scale="ImageNet val, ViT-B/16, JPEG 5, WEBP 0, mbt2018-1 and HiFiC-lo",
)
