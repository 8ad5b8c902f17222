"""DeepSolarEye."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="deepsolareye",
    title="DeepSolarEye: Power Loss Prediction and Weakly Supervised Soiling Localization via Fully Convolutional "
    "Networks for Solar Panels",
    authors=("Sachin Mehta", "Amar P. Azad", "Saneem A. Chemmengath", "Vikas Raykar", "Shivkumar Kalyanaraman"),
    year=2018,
    venue="WACV",
    family="segmentation, localisation, medical",
    summary="Learn from panel images labelled only with the power lost to predict that loss and to find and name the "
    "dirt, in four stages; units along the network feed in the input image again at every resolution.",
    arxiv="1710.03811",
    headline=(
        Headline("power-loss accuracy, gain over ResNet (%)", {"BiDIAF": 3}),
        Headline(
            "Jaccard index of localisation, gain (%)", {"BiDIAF, over ResNet": 4, "end-to-end mask stage, on top": 24}
        ),
        Headline("all stages on a Titan X (frames per second)", {"DeepSolarEye": 22}),
    ),
    paper_scale="45,754 panel images at 192 x 192, 60/20/20 split, 100 epochs, one GPU",
)
