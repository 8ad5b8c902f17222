"""Winner-Take-All Column Row Sampling for Memory Efficient Adaptation of Language Model."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="wta-crs",
    title="Winner-Take-All Column Row Sampling for Memory Efficient Adaptation of Language Model",
    authors=("Zirui Liu", "Guanchu Wang", "Shaochen Zhong", "Zhaozhuo Xu", "Daochen Zha"),
    year=2023,
    venue="NeurIPS",
    family="optimisers, batch size, memory",
    summary="Fine-tune with less memory by storing only some rows of each linear layer's input: the likeliest are "
    "always kept, the others sampled, and the estimate of the weight gradient stays unbiased.",
    arxiv="2305.15265",
    code="zirui-ray-liu/WTACRS",
    headline=(Headline("against full fine-tuning, at most (times)", {"less peak memory": 2.7, "larger batch": 6.4}),),
    paper_scale="GLUE, T5-base, T5-large, T5-3B and BERT, 30 % or 10 % of the rows kept",
)
