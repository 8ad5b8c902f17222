"""Concurrent Adversarial Learning for Large-Batch Training."""

from typing import TYPE_CHECKING

from assay.claims.card import Claim, Headline, Paper, Scale

if TYPE_CHECKING:
    from assay.claims.check import Check
    from assay.trials.result import TrialResult


def trial(check: "Check") -> "TrialResult":
    """LARS and LAMB with and without concurrent adversaries, and what else the same work or regularisation gives."""
    from assay.engine import Recipe
    from assay.methods.conadv import ConAdv
    from assay.methods.label_smoothing import LabelSmoothing
    from assay.methods.lamb import LAMB
    from assay.trials import Arm

    recipe = Recipe(lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="linear", warmup=0.2, batch_size=250)
    lars, lamb = LAMB(optimizer="lars-2020"), LAMB()
    longer = "6steps" if check.quick else "30epochs"
    return check.compare(
        [
            Arm("lars", recipe.with_methods([lars])),
            Arm("lars, conadv", recipe.with_methods([lars, ConAdv()])),
            Arm("lars, sequential", recipe.with_methods([lars, ConAdv(staleness=0)]), against="lars, conadv"),
            Arm("lars, longer", recipe.with_methods([lars]), budget=longer, against="lars, conadv"),
            Arm("lars, label smoothing", recipe.with_methods([lars, LabelSmoothing(0.1)])),
            Arm("lamb", recipe.with_methods([lamb])),
            Arm("lamb, conadv", recipe.with_methods([lamb, ConAdv()]), against="lamb"),
        ],
        quick_task="digits",
        quick_budget="2steps",
        vary=("init", "order", "split"),
        tune={"lr": [0.01, 0.02, 0.05, 0.1, 0.2, 0.4]},
        equal_flops=False,
        evaluations=1,
    )


PAPER = Paper(
    slug="conadv",
    title="Concurrent Adversarial Learning for Large-Batch Training",
    authors=("Yong Liu", "Xiangning Chen", "Minhao Cheng", "Cho-Jui Hsieh", "Yang You"),
    year=2022,
    venue="ICLR",
    family="optimisers, batch size, memory",
    summary="Train large batches with adversarial examples as the regulariser, and craft those examples with weights "
    "that are some steps old, so that attack and update can run at the same time.",
    arxiv="2106.00221",
    code="conadv/ConAdv",
    added="2026-11-22",
    objects=(
        "assay.data.concurrent_adversary.ConcurrentAdversary",
        "assay.data.concurrent_adversary.concurrent_loss",
        "assay.nn.split_batch_norm.SplitBatchNorm",
        "assay.nn.split_batch_norm.to_split_batch_norm",
        "assay.nn.split_batch_norm.use_stream",
        "assay.nn.split_batch_norm.keep_stream",
        "assay.optim.lars_schedule.imagenet_lars",
        "assay.optim.lars_schedule.warmup_then_polynomial",
    ),
    method="assay.methods.conadv.ConAdv",
    example="digits --with conadv:epsilon=0.06 --set batch_size=300",
    headline=(
        Headline(
            "ImageNet, ResNet-50, batch 96K, top-1 accuracy (%)", {"ConAdv": 75.3, "ConAdv + data augmentation": 76.2}
        ),
    ),
    claim=Claim(
        statement="With LARS and batches of a quarter of the data, adversarial examples from the weights of the step "
        "before raise the test accuracy after as many steps by at least half a point",
        task="fashion-mnist:train_size=1000",
        arms={
            "lars": "LARS on clean batches of 250",
            "lars, conadv": "the same with adversarial batches of weights one step old, epsilon 9/255, added",
            "lars, sequential": "the same with adversarial batches of the present weights",
            "lars, longer": "LARS on clean batches, three times as many epochs: a little more work than with "
            "adversaries, which take two to three times that of clean training",
            "lars, label smoothing": "LARS with label smoothing of 0.1, a regulariser that costs nothing",
            "lamb": "LAMB on clean batches of 250",
            "lamb, conadv": "LAMB with concurrent adversaries",
        },
        metric="accuracy",
        direction="higher",
        smallest_effect=0.005,
        seeds=12,
        budget="10epochs",
        decides=("lars, conadv", "lars"),
        tuning="learning rate 0.01, 0.02, 0.05, 0.1, 0.2 or 0.4 for every arm, by validation accuracy from one seed; "
        "epsilon is that of the authors' code and is not tuned, so that no arm has more trials than another. LARS has "
        "the form of 2020, whose rates are of LAMB's scale, where the paper takes that of 2017",
        power="Fixed before any run of it. For cost and a grid of rates there were pilots at seed 900, of validation "
        "accuracy: LARS 68.0% at 0.03 and 72.1% at 0.1, with adversaries 64.8% at 0.03, LAMB 69.7% at 0.02, and LARS "
        "in the form of 2017 at three rates on twice the data. Then the grid was made to reach 0.4, and all else left. "
        "With the test set's own error of 0.3 points, differences of 0.8 points between seeds and six comparisons, 12 "
        "seeds find an effect of about 1.5 points four times in five. A clean run took 4 s of a core and one with "
        "adversaries 10 s: 12 seeds and 6 rates of 7 arms make 8 minutes of two cores.",
        trial=trial,
    ),
    caveat="40 steps leave the networks short of what they could learn, so that a regulariser has little to do: three "
    "times as many clean steps, for as much work, are 8.7 points better than the adversaries (6.5 to 10.8), and with "
    "LAMB these cost 3.2 points (1.8 to 4.6).",
    paper_scale="ImageNet, ResNet-50, batch 98304, LARS, 100 epochs of which 41 warm-up",
    scales=(
        Scale(
            "ImageNet, ResNet-50, batch 98,304, 100 epochs: one run",
            samples=100 * 1_281_167,
            flops=8 * 2 * 3.8e9,
            note="3.8e9 multiply-adds forward (He et al., 2016, table 1): forward and backward twice that for clean "
            "and adversarial pictures, forward and backward to the inputs for the attack",
        ),
    ),
)
