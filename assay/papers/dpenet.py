"""From Heavy Rain Removal to Detail Restoration: A Faster and Better Network."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="dpenet",
    title="From Heavy Rain Removal to Detail Restoration: A Faster and Better Network",
    authors=("Yuanbo Wen", "Tao Gao", "Jing Zhang", "Kaihao Zhang", "Ting Chen"),
    year=2023,
    venue="Pattern Recognition",
    family="restoration and reconstruction",
    summary="A small network at full resolution removes rain in two stages: dilated dense blocks take out the "
    "streaks, pixel-wise attention brings back detail; both are held to SSIM and to edges.",
    arxiv="2205.03553",
    code="chdwyb/DPENet",
    paper_scale="Rain100H, Rain100L, Rain800 and Rain1400, patches of 128, batch 18, Adam 1e-3, 100 epochs",
)
