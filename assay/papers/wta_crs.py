"""Winner-Take-All Column Row Sampling for Memory Efficient Adaptation of Language Model."""

from typing import TYPE_CHECKING

from assay.claims.card import Claim, Headline, Paper

if TYPE_CHECKING:
    from assay.claims.check import Check
    from assay.nn.column_row_sampling import Estimator
    from assay.trials.result import TrialResult


def trial(check: "Check") -> "TrialResult":
    """Exact gradients, and estimates from parts of the token rows, each at its own best rate."""
    from assay.engine import Recipe
    from assay.methods.wta_crs import WTACRS
    from assay.trials import Arm

    recipe = Recipe(
        optimizer="adamw", lr=3e-3, beta2=0.95, weight_decay=0.1, schedule="cosine", warmup=0.05, batch_size=16,
        clip_norm=1.0,
    )  # fmt: skip

    def treated(ratio: float, estimator: "Estimator" = "wta") -> Recipe:
        return recipe.with_methods([WTACRS(ratio, estimator)])

    return check.compare(
        [
            Arm("exact", treated(1.0)),
            Arm("wta 0.3", treated(0.3)),
            Arm("crs 0.1", treated(0.1, "crs")),
            Arm("wta 0.1", treated(0.1), against="crs 0.1"),
            Arm("top k 0.1", treated(0.1, "topk"), against="crs 0.1"),
        ],
        quick_task="text:context=16,width=16,depth=1,heads=2,train_size=64",
        quick_budget="6steps",
        tune={"lr": [0.0003, 0.001, 0.003, 0.01, 0.03]},
        equal_flops=False,
        evaluations=1,
    )


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
    added="2026-11-22",
    objects=(
        "assay.nn.wta_crs.WTACRSLinear",
        "assay.nn.wta_crs.WTACRSProduct",
        "assay.nn.wta_crs.to_wta_crs",
        "assay.nn.gradient_norm_cache.GradientNormCache",
        "assay.nn.column_row_sampling.column_row_law",
        "assay.nn.column_row_sampling.choose_rows",
        "assay.nn.column_row_sampling.estimated_product",
        "assay.nn.packed_masks.to_packed_masks",
        "assay.analysis.saved_activations.SavedActivations",
    ),
    method="assay.methods.wta_crs.WTACRS",
    example="text --with wta-crs:ratio=0.3",
    headline=(Headline("against full fine-tuning, at most (times)", {"less peak memory": 2.7, "larger batch": 6.4}),),
    claim=Claim(
        statement="With a tenth of the token rows kept and the same steps, a transformer reaches a lower test loss "
        "when the likeliest rows are always among them than when all are drawn, by at least 0.01 bits per byte",
        task="text:width=64,train_size=800",
        arms={
            "exact": "gradients of all rows",
            "wta 0.3": "winner-take-all sampling, three tenths of the rows",
            "crs 0.1": "column-row sampling, every row drawn, a tenth of them",
            "wta 0.1": "winner-take-all sampling, a tenth of the rows",
            "top k 0.1": "the likeliest tenth alone, which is biased",
        },
        metric="bits_per_byte",
        direction="lower",
        smallest_effect=0.01,
        seeds=8,
        budget="250steps",
        decides=("wta 0.1", "crs 0.1"),
        tuning="learning rate 0.0003, 0.001, 0.003, 0.01 or 0.03 for every arm, by validation loss from one seed; "
        "weight decay, betas, clipping, warm-up of a twentieth and cosine decay alike. All arms choose by the same "
        "law: the norms of a row and of its gradient an epoch before, which 50 steps are",
        power="Fixed before any run of the claim, from a guess at the noise: with differences of 0.02 bits per byte "
        "between seeds, 8 seeds and four comparisons an effect of about 0.045 is found four times in five, where the "
        "margin of 0.01 is counted in. The winners take less off the error the more alike the rows are, and less "
        "still the smaller the budget, so nothing may be found. A pilot of 100 steps at seed 77, none of the claim's, "
        "gave the cost; it was on 1000 examples at the rate 0.003, where the two arms were 0.002 apart, and the "
        "likeliest alone 0.8 behind. Nothing was chosen by it but the number of seeds and steps, for time.",
        trial=trial,
    ),
    caveat="Trained from random weights, three tenths of the rows cost 0.11 bits against exact gradients (0.06 to "
    "0.15), a tenth 0.20; the paper fine-tunes networks that are trained already. The likeliest tenth alone cost 1.4, "
    "so that it is the draws, not the winners, that do the work here.",
    paper_scale="GLUE, T5-base, T5-large, T5-3B and BERT, 30 % or 10 % of the rows kept",
)
