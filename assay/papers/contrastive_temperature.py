"""Understanding the Behaviour of Contrastive Loss."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="contrastive-temperature",
    title="Understanding the Behaviour of Contrastive Loss",
    authors=("Feng Wang", "Huaping Liu"),
    year=2021,
    venue="CVPR",
    family="objectives and representations",
    summary="The temperature of a contrastive loss sets how much it punishes the nearest negatives: low spreads "
    "embeddings evenly, high tolerates similar samples. Choosing hard negatives explicitly keeps the spread at a high "
    "temperature.",
    arxiv="2012.09740",
    code="WangFeng18/UnsupervisedLearningCodes",
    headline=(
        Headline(
            "CIFAR-100, ResNet-18, linear accuracy (%) by temperature, from the code's README",
            {"0.05": 49.8, "0.1": 52.46, "0.2": 56.05, "0.3": 56.44, "0.4": 55.47, "0.6": 53.05, "0.8": 50.08},
        ),
    ),
    paper_scale="CIFAR-10 and CIFAR-100, ResNet-18, temperature 0.05 to 1, linear probe, 4096 hard negatives",
)
