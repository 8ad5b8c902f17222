"""Single Image BRDF Parameter Estimation with a Conditional Adversarial Network."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="svbrdf",
    title="Single Image BRDF Parameter Estimation with a Conditional Adversarial Network",
    authors=("Mark Boss", "Hendrik P. A. Lensch"),
    year=2019,
    venue="arXiv",
    family="generation, 3D, codecs",
    summary="Estimate normals, base colour, metallic and roughness maps of a flat material from one flash photograph "
    "with a conditional GAN, trained on renderings that also have other lights, so that it learns to ignore them.",
    arxiv="1910.05148",
    paper_scale="thousands of authored materials at 512 pixels, batch 4, about 250k steps",
)
