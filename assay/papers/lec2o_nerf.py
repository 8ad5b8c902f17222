"""LeC^2O-NeRF: Learning Continuous and Compact Large-Scale Occupancy for Urban Scenes."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="lec2o-nerf",
    title="LeC^2O-NeRF: Learning Continuous and Compact Large-Scale Occupancy for Urban Scenes",
    authors=("Zhenxing Mi", "Dan Xu"),
    year=2024,
    venue="arXiv",
    family="generation, 3D, codecs",
    summary="Learn without labels, along with the radiance field, a small network that tells occupied from empty "
    "space in large scenes; afterwards it takes the place of occupancy grids and lets other fields skip empty samples.",
    arxiv="2411.11374",
    paper_scale="Mill 19 and UrbanScene3D, 8192 rays, Switch-NeRF as host",
)
