"""ED-NeRF: Efficient Text-Guided Editing of 3D Scene using Latent Space NeRF."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="ed-nerf",
    title="ED-NeRF: Efficient Text-Guided Editing of 3D Scene using Latent Space NeRF",
    authors=("Jangho Park", "Gihyun Kwon", "Jong Chul Ye"),
    year=2024,
    venue="ICLR",
    family="generation, 3D, codecs",
    summary="Render the latents of a diffusion model instead of colours, refine them by a learnt layer, and edit the "
    "scene by text with the difference of two predicted noises, for the edited and for the original view.",
    arxiv="2310.02712",
    paper_scale="LLFF and 360-degree scenes at 512 x 512, Stable Diffusion 1.5, TensoRF",
)
