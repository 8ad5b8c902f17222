"""Large Batch Optimization for Deep Learning: Training BERT in 76 minutes."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="lamb",
    title="Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
    authors=(
        "Yang You",
        "Jing Li",
        "Sashank Reddi",
        "Jonathan Hseu",
        "Sanjiv Kumar",
        "Srinadh Bhojanapalli",
        "Xiaodan Song",
        "James Demmel",
        "Kurt Keutzer",
        "Cho-Jui Hsieh",
    ),
    year=2020,
    venue="ICLR",
    family="optimisers, batch size, memory",
    summary="Scale each layer's update to a length set by the norm of that layer's weights, so that the batch can "
    "grow to tens of thousands: LARS does so to momentum SGD, LAMB to Adam with decoupled weight decay.",
    arxiv="1904.00962",
    code="tensorflow/addons",
    objects=("assay.optim.LAMB", "assay.optim.LARS"),
    headline=(
        Headline(
            "BERT-Large, SQuAD F1, by batch size",
            {
                "AdamW, 512": 90.395,
                "LAMB, 512": 91.752,
                "LAMB, 4k": 91.137,
                "LAMB, 32k": 91.475,
                "LAMB, 64k/32k": 90.584,
            },
        ),
        Headline(
            "BERT-Large pre-training, time on TPUs (minutes)",
            {"LAMB, 4k, 128 TPUs": 693.6, "LAMB, 32k, 1024 TPUs": 101.2, "LAMB, 64k/32k, 1024 TPUs": 76.2},
        ),
    ),
    paper_scale="BERT-Large on Wikipedia and Books, batch 32k, 15625 steps; ResNet-50 on ImageNet, batch 32k",
)
