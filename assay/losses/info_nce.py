"""InfoNCE, the contrastive loss of SimCLR (NT-Xent): the cross-entropy of finding the positive among all keys.

    L_i = -log [ exp(s_i+ / tau) / ( exp(s_i+ / tau) + sum_{j in N(i)} exp(s_ij / tau) ) ]

s: similarities of unit embeddings, s_i+ that of the positive pair; N(i): the negatives. It is log(1 + exp(D_i)) of the
decoupled loss D_i.

Source: van den Oord, Li, Vinyals, "Representation learning with contrastive predictive coding" (2018), eq. 4; Chen et
al., "A simple framework for contrastive learning of visual representations" (2020), eq. 1.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from assay.losses.contrast import Contrast, TwoViewLoss
from assay.losses.decoupled_contrastive import decoupled_contrastive
from assay.losses.similarity import check_temperature


def info_nce(
    contrast: Contrast, temperature: float = 0.1, *, chunk_size: int | None = None
) -> Float[Tensor, " anchors"]:
    """L_i of each anchor.

    Args:
        contrast: anchors, positives and keys, as `two_views` or a `MemoryBank` makes them.
        temperature: tau > 0.
        chunk_size: anchors whose similarities are in memory at a time, see `log_sum_negatives`.

    Raises:
        ValueError: there are no negatives, or a number is not positive.

    Source: Chen et al. 2020, eq. 1.
    """
    return -logsigmoid(-decoupled_contrastive(contrast, temperature, chunk_size=chunk_size))


class InfoNCELoss(TwoViewLoss):
    """InfoNCE of a batch of pairs, both views' embeddings being anchors and negatives.

    Args:
        temperature: tau > 0.
        normalize, gather, chunk_size, reduction: see `TwoViewLoss`.

    Raises:
        ValueError: a setting is out of its range; in use, shapes differ or a single image has no negatives.

    Source: Chen et al. 2020, section 2.1.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        normalize: bool = True,
        gather: bool = False,
        chunk_size: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(normalize=normalize, gather=gather, chunk_size=chunk_size, reduction=reduction)
        check_temperature(temperature)
        self.temperature = temperature

    def each(self, contrast: Contrast) -> Float[Tensor, " anchors"]:
        return info_nce(contrast, self.temperature, chunk_size=self.chunk_size)
