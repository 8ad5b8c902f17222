"""Fire Together Wire Together: A Dynamic Pruning Approach with Self-Supervised Mask Prediction."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="ftwt",
    title="Fire Together Wire Together: A Dynamic Pruning Approach with Self-Supervised Mask Prediction",
    authors=("Sara Elkerdawy", "Mostafa Elhoushi", "Hong Zhang", "Nilanjan Ray"),
    year=2022,
    venue="CVPR",
    family="compression and architecture search",
    summary="For each image, a small head in front of every convolution predicts which filters will be most active, "
    "learnt from the layer's own activations, and only those are computed.",
    arxiv="2110.08232",
    code="selkerdawy/FTWT",
    headline=(
        Headline(
            "CIFAR-10, VGG16-BN, accuracy (%)",
            {"dense": 93.82, "56 % fewer FLOPs": 93.73, "65 % fewer FLOPs": 93.55, "73 % fewer FLOPs": 93.19},
        ),
        Headline(
            "CIFAR-10, ResNet-56, accuracy (%)", {"dense": 93.66, "54 % fewer FLOPs": 92.28, "66 % fewer FLOPs": 92.63}
        ),
        Headline(
            "ImageNet, ResNet-34, accuracy (%)",
            {
                "dense": 73.3,
                "25.9 % fewer FLOPs": 73.25,
                "37.8 % fewer FLOPs": 72.79,
                "47.4 % fewer FLOPs": 72.17,
                "52.2 % fewer FLOPs": 71.71,
            },
        ),
    ),
    paper_scale="ImageNet, pretrained ResNet-34; CIFAR-10, VGG16-BN, ResNet-56 and MobileNetV1, 200 epochs",
)
