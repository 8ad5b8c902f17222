"""Reduce Information Loss in Transformers for Pluralistic Image Inpainting."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="put-inpainting",
    title="Reduce Information Loss in Transformers for Pluralistic Image Inpainting",
    authors=("Qiankun Liu",),
    year=2022,
    venue="CVPR",
    family="generation, 3D, codecs",
    summary="Fill holes in images in many ways: an autoencoder that sees each patch alone keeps masked pixels out of "
    "known tokens, and a Transformer reads unquantised features and predicts codes only for what is missing.",
    arxiv="2205.05076",
    code="liuqk3/PUT",
    paper_scale="FFHQ 256, 150 epochs at batch 128, then 250 epochs at batch 48",
)
