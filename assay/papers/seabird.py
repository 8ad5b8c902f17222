"""SeaBird: Segmentation in Bird's View with Dice Loss Improves Monocular 3D Detection of Large Objects."""

from assay.claims.card import Headline, Paper

PAPER = Paper(
    slug="seabird",
    title="SeaBird: Segmentation in Bird's View with Dice Loss Improves Monocular 3D Detection of Large Objects",
    authors=("Abhinav Kumar", "Yuliang Guo", "Xinyu Huang", "Liu Ren", "Xiaoming Liu"),
    year=2024,
    venue="CVPR",
    family="segmentation, localisation, medical",
    summary="With noisy depth, the gradient variance of the dice loss falls with the length of an object while that "
    "of L1 and L2 does not. So segment the foreground in bird's-eye view by dice and feed the map to the 3D box head.",
    arxiv="2403.20318",
    code="abhi1kumar/SeaBird",
    headline=(
        Headline("nuScenes val, R50, AP of large objects", {"HoP": 0.274, "HoP + SeaBird": 0.282}),
        Headline("nuScenes val, R50, mAP", {"HoP": 0.399, "HoP + SeaBird": 0.411}),
        Headline("nuScenes val, R50, NDS", {"HoP": 0.509, "HoP + SeaBird": 0.515}),
        Headline("KITTI-360 val, PBEV + SeaBird, AP 3D at 50 %", {"large": 13.22, "car": 42.46, "mean": 27.84}),
    ),
    paper_scale="KITTI-360, 20 + 20 epochs; nuScenes, recipe of HoP",
)
