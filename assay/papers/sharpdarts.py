"""sharpDARTS: Faster and More Accurate Differentiable Architecture Search."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="sharpdarts",
    title="sharpDARTS: Faster and More Accurate Differentiable Architecture Search",
    authors=("Andrew Hundt", "Varun Jain", "Gregory D. Hager"),
    year=2019,
    venue="arXiv",
    family="compression and architecture search",
    summary="Repair differentiable architecture search: a separable block with free middle channels, a learning rate "
    "that anneals along a power of a cosine, a search over a grid of hyperparameters, and a regulariser of the mixing "
    "weights.",
    arxiv="1903.09900",
    code="ahundt/sharpDARTS",
    headline=(
        Headline(
            "CIFAR-10, error (%)",
            {"DARTS, its own report": 2.76, "SharpSepConvDARTS, best": 1.93, "SharpSepConvDARTS, mean": 1.98},
        ),
        Headline("CIFAR-10.1, error (%)", {"SharpSepConvDARTS, best": 5.5, "SharpSepConvDARTS, mean": 5.8}),
        Headline("ImageNet, mobile setting, error (%)", {"top-1": 25.1, "top-5": 7.8}),
        Headline("search time saved against first-order DARTS (%)", {"sharpDARTS": 50}),
    ),
    paper_scale="CIFAR-10, search of 120 epochs, final training of 2000 epochs, 8 repeats; ImageNet, 300 epochs",
)
