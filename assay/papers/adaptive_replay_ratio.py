"""Revisiting Plasticity in Visual Reinforcement Learning: Data, Modules and Training Stages."""

from assay.claims.card import Paper

PAPER = Paper(
    slug="adaptive-replay-ratio",
    title="Revisiting Plasticity in Visual Reinforcement Learning: Data, Modules and Training Stages",
    authors=(
        "Guozheng Ma",
        "Lu Li",
        "Sen Zhang",
        "Zixuan Liu",
        "Zhen Wang",
        "Yixin Chen",
        "Li Shen",
        "Xueqian Wang",
        "Dacheng Tao",
    ),
    year=2024,
    venue="ICLR",
    family="analysis, scaling, theory, data",
    summary="In visual reinforcement learning augmentation preserves plasticity, the critic limits it and what is "
    "lost early never returns. So keep the replay ratio low until the critic's share of active units settles, then "
    "raise it.",
    arxiv="2310.07418",
    code="Guozheng-Ma/Adaptive-Replay-Ratio",
    paper_scale="DeepMind Control, DrQ-v2, 2M environment steps, 5 seeds or more",
)
