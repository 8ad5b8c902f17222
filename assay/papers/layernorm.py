"""Layer Normalization."""

from typing import TYPE_CHECKING

from assay.claims.card import Claim, Headline, Paper

if TYPE_CHECKING:
    from assay.claims.check import Check
    from assay.trials.result import TrialResult


def trial(check: "Check") -> "TrialResult":
    """An LSTM, the same with layer normalisation, and with the cell's alone, from the same initial matrices."""
    from assay.engine import Recipe
    from assay.methods.layer_norm import LayerNorm
    from assay.trials import Arm

    recipe = Recipe(
        optimizer="adam",
        lr=0.005,
        schedule="cosine",
        warmup=0.05,
        batch_size=8 if check.quick else 32,
        clip_norm=1.0,
    )
    return check.compare(
        [
            Arm("lstm", recipe),
            Arm("ln-lstm", recipe.with_methods([LayerNorm()])),
            Arm("cell only", recipe.with_methods([LayerNorm(reference="lua")])),
        ],
        quick_task="text:model=lstm,context=16,width=16",
        quick_budget="10steps",
        tune={"lr": [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1]},
    )


PAPER = Paper(
    slug="layernorm",
    title="Layer Normalization",
    authors=("Jimmy Lei Ba", "Jamie Ryan Kiros", "Geoffrey E. Hinton"),
    year=2016,
    venue="arXiv",
    family="normalisation, regularisation, adaptation",
    summary="Normalise the summed inputs of a layer over its neurons, for each example and time step alone, so that "
    "training and test compute the same thing and nothing depends on the batch; made above all for recurrent nets.",
    arxiv="1607.06450",
    code="ryankiros/layer-norm",
    objects=(
        "assay.nn.layer_norm.layer_norm",
        "assay.nn.layer_norm.LayerNorm",
        "assay.nn.layer_norm_rnn.LayerNormRNN",
        "assay.nn.layer_norm_rnn.LayerNormLSTM",
        "assay.nn.layer_norm_rnn.LayerNormGRU",
        "assay.nn.layer_norm_rnn.LayerNormRNNCell",
        "assay.nn.layer_norm_rnn.LayerNormLSTMCell",
        "assay.nn.layer_norm_rnn.LayerNormGRUCell",
        "assay.nn.to_layer_norm.to_layer_norm_rnn",
        "assay.nn.to_layer_norm.batch_norm_to_layer_norm",
        "assay.nn.to_layer_norm.add_layer_norm",
    ),
    method="assay.methods.layer_norm.LayerNorm",
    example="text:model=lstm --with layernorm",
    headline=(
        Headline("MSCOCO retrieval, order-embeddings, GRU: time to converge, share of the baseline's", {"LN-GRU": 0.6}),
        Headline("Binarised MNIST, DRAW, test negative log-likelihood (nats)", {"baseline": 82.36, "LN": 82.09}),
    ),
    claim=Claim(
        statement="After the same 300 steps an LSTM with layer normalisation predicts the bytes of unseen Python code "
        "better than one without, each at its best learning rate, by at least 0.05 bits per byte",
        task="text:model=lstm",
        arms={
            "lstm": "torch's LSTM, one layer of width 128, forget-gate biases of 1",
            "ln-lstm": "the paper's LN-LSTM from the same matrices and biases",
            "cell only": "the authors' Lua form: only the cell is normalised, on its way out. Is a larger, steadier "
            "input of the readout all that it takes?",
        },
        metric="bits_per_byte",
        direction="lower",
        smallest_effect=0.05,
        seeds=6,
        budget="300steps",
        decides=("ln-lstm", "lstm"),
        tuning="learning rate 0.001, 0.002, 0.005, 0.01, 0.02, 0.05 or 0.1 for every arm, by validation loss from one "
        "seed; Adam, warm-up of a twentieth, cosine decay and gradients clipped at 1 alike",
        power="Fixed before any full run. A pilot at one rate and three other seeds, for cost and noise, found losses "
        "of seeds 0.02 bits per byte apart, and so their differences; 6 seeds and two comparisons find a gain of about "
        "0.1 four times in five, where the margin is counted in. In the pilot's baseline 0.05 bits are what a sixth "
        "of the steps more bring in mid-run.",
        trial=trial,
    ),
    paper_scale="skip-thoughts on BooksCorpus, order-embeddings on MSCOCO, the attentive reader on CNN, DRAW on MNIST, "
    "the cell swapped and all else as in the repositories of those models",
)
