"""Batch transforms that mix samples and their targets: CutMix, with mixup and cutout beside it.

    CutMix: x' = x outside a box, x[perm] inside;     loss = lam L(f(x'), y) + (1 - lam) L(f(x'), y[perm])
            lam = 1 - area of the box / area of the image, counted in the pixels actually pasted

Source: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features" (ICCV 2019),
section 3 and algorithm 1.
"""

import math
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from scipy.special import betaincinv
from torch import Tensor, nn

# What is mixed ------------------------------------------------------------------------------------------------------


class MixedTarget(NamedTuple):
    """Targets `y_a` with weight `lam` and `y_b` with weight 1 - `lam`.

    Attributes:
        y_a: targets of the samples themselves [batch, ...].
        y_b: of the samples mixed in [batch, ...].
        lam: in [0, 1]; one number for the batch, or float64 [batch].
    """

    y_a: Tensor
    y_b: Tensor
    lam: float | Tensor

    def soft(self, num_classes: int) -> Float[Tensor, "batch classes"]:
        """Class indices as the mixed probabilities, float32, for losses that take those."""
        a, b = (F.one_hot(y, num_classes).float() for y in (self.y_a, self.y_b))
        lam = self.lam if isinstance(self.lam, float) else self.lam.to(a)[:, None]
        return lam * a + (1 - lam) * b

    def larger(self) -> "MixedTarget":
        """The target of the larger part alone (a variant that the paper finds worse)."""
        lam = self.lam
        return self._replace(lam=float(lam >= 0.5) if isinstance(lam, float) else (lam >= 0.5).to(lam))

    def complete(self) -> "MixedTarget":
        """Both targets in equal parts, whatever the areas (a variant that the paper finds worse)."""
        return self._replace(lam=0.5 if isinstance(self.lam, float) else torch.full_like(self.lam, 0.5))


def mixed_loss(criterion: Callable[..., Tensor], outputs: Any, target: Any, reduction: str = "mean") -> Tensor:
    """The loss lam L(outputs, y_a) + (1 - lam) L(outputs, y_b); the plain one where `target` is not mixed.

    With class weights this is a mixture of two weighted means, not the weighted mean of mixed labels.

    Args:
        criterion: L, called `criterion(outputs, target, reduction=...)`, such as `F.cross_entropy`.
        outputs: what L takes first.
        target: a `MixedTarget`, or anything that L takes.
        reduction: as L takes it. Where each sample has its own lam, L is asked for one value a sample [batch, ...] and
            the mean or the sum is taken here.

    Source: Yun et al. 2019, eq. 1, as in the authors' code.
    """
    if not isinstance(target, MixedTarget):
        return criterion(outputs, target, reduction=reduction)
    y_a, y_b, lam = target
    if isinstance(lam, Tensor):
        a, b = criterion(outputs, y_a, reduction="none"), criterion(outputs, y_b, reduction="none")
        weights = lam.to(a).view(-1, *[1] * (a.ndim - 1))
        mixed = weights * a + (1 - weights) * b
        return mixed if reduction == "none" else getattr(mixed, reduction)()
    if lam in (0.0, 1.0):  # a term of weight 0 may be infinite
        return criterion(outputs, y_a if lam else y_b, reduction=reduction)
    return lam * criterion(outputs, y_a, reduction=reduction) + (1 - lam) * criterion(outputs, y_b, reduction=reduction)


def mixed_cross_entropy(
    logits: Float[Tensor, "batch classes *positions"], target: MixedTarget | Tensor, reduction: str = "mean"
) -> Float[Tensor, "..."]:
    """`mixed_loss` of the cross-entropy: that of the soft label lam onehot(y_a) + (1 - lam) onehot(y_b)."""
    return mixed_loss(F.cross_entropy, logits, target, reduction)


# Boxes --------------------------------------------------------------------------------------------------------------


class Box(NamedTuple):
    """Half-open ranges of the last two axes: rows `top` to `bottom`, columns `left` to `right`."""

    top: int
    bottom: int
    left: int
    right: int

    def kept(self, size: tuple[int, int]) -> float:
        """The share of an image of that size that lies outside: the lam of the label."""
        return 1 - (self.bottom - self.top) * (self.right - self.left) / (size[0] * size[1])


def cutmix_box(size: tuple[int, int], lam: float, center: tuple[int, int]) -> Box:
    """The box around a centre that covers 1 - lam of the image, but for truncation and what falls outside.

    Args:
        size: rows and columns of the image, S.
        lam: in [0, 1].
        center: row and column in 0..S-1.

    Raises:
        ValueError: an argument is out of its range.

    Source: Yun et al. 2019, eq. 2; truncation and clipping as in the authors' code.
    """
    if not 0 <= lam <= 1:
        raise ValueError(f"lam must lie in [0, 1], got {lam}")
    if not all(0 <= c < s for c, s in zip(center, size, strict=True)):
        raise ValueError(f"center must lie in an image of size {size}, got {center}")
    ratio = math.sqrt(1 - lam)
    ranges = []
    for s, c in zip(size, center, strict=True):
        half = int(s * ratio) // 2  # an odd cut loses one
        ranges += [max(c - half, 0), min(c + half, s)]
    return Box(*ranges)


DrawBox = Callable[[tuple[int, int], float, torch.Generator | None], Box]


def random_box(size: tuple[int, int], lam: float, generator: torch.Generator | None = None) -> Box:
    """`cutmix_box` around a centre that is uniform over the image; draws its row, then its column."""
    row, column = (int(torch.randint(s, (), generator=generator)) for s in size)
    return cutmix_box(size, lam, (row, column))


def gaussian_box(std: float) -> DrawBox:
    """Boxes around a centre that is normal about the image's, of `std` in image sides, and moved to the image's edge
    where it falls outside (a variant that the paper finds worse)."""
    if not 0 <= std < math.inf:
        raise ValueError(f"std must be finite and not negative, got {std}")

    def draw(size: tuple[int, int], lam: float, generator: torch.Generator | None = None) -> Box:
        offsets = torch.randn(2, generator=generator, dtype=torch.float64).tolist()
        row, column = (min(max(int(s * (0.5 + std * z)), 0), s - 1) for s, z in zip(size, offsets, strict=True))
        return cutmix_box(size, lam, (row, column))

    return draw


def paste(
    x: Shaped[Tensor, "batch *channels rows columns"], perm: Int[Tensor, " batch"], boxes: Box | list[Box]
) -> Shaped[Tensor, "batch *channels rows columns"]:
    """A copy of `x` with the contents of `x[perm]` inside a box: one for all, or one a sample.

    Args:
        x: images or feature maps of any type; not changed.
        perm: on the device of `x`, the partner of each sample.
        boxes: where to paste.
    """
    mixed = x.clone()
    if isinstance(boxes, Box):
        inside = (..., slice(boxes.top, boxes.bottom), slice(boxes.left, boxes.right))
        mixed[inside] = x[inside][perm]  # only the box is gathered
        return mixed
    for i, (box, partner) in enumerate(zip(boxes, perm.tolist(), strict=True)):
        rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
        mixed[i, ..., rows, columns] = x[partner, ..., rows, columns]
    return mixed


# Batch transforms -----------------------------------------------------------------------------------------------------


def draw_lam(alpha: float, generator: torch.Generator | None = None) -> float:
    """One value of Beta(alpha, alpha), from one uniform number."""
    uniform = float(torch.rand((), generator=generator, dtype=torch.float64))
    return uniform if alpha == 1 else float(betaincinv(alpha, alpha, uniform))


class _Mixer:
    """What the transforms share: settings, and whether a batch is to be mixed."""

    def __init__(self, alpha: float, prob: float, generator: torch.Generator | None) -> None:
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha must be finite and not negative, got {alpha}")
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie in [0, 1], got {prob}")
        self.alpha, self.prob, self.generator = alpha, prob, generator

    def _acts(self) -> bool:
        if self.alpha == 0 or self.prob == 0:
            return False
        return self.prob == 1 or float(torch.rand((), generator=self.generator, dtype=torch.float64)) < self.prob

    def _perm(self, x: Tensor) -> Tensor:
        return torch.randperm(len(x), generator=self.generator).to(x.device, non_blocking=True)


class CutMix(_Mixer):
    """`(x, y) -> (x', MixedTarget)`: a box of each image replaced by that of another of the batch. Training only.

    A call draws, from the generator and in this order: whether to mix (not if `prob` is 0 or 1), lam, the permutation,
    the box's row and column. Off, by `prob=0` or `alpha=0`, it draws nothing; a batch that is not mixed is returned as
    it came. Set `prob` between calls to schedule it.

    Args:
        alpha: lam ~ Beta(alpha, alpha), 1 in the paper; 0 for off.
        prob: of mixing a batch; 1 for ImageNet and 0.5 for CIFAR in the authors' commands.
        lam: a fixed lam instead of a drawn one, for boxes of one size.
        box: draws a box from image size, lam and generator.
        per_sample: a lam and a box for each sample instead of for the batch (not the paper's).
        dense: targets are maps [batch, ..., rows, columns] as large as the image: paste them too instead of mixing.
        generator: a CPU generator; torch's default one otherwise.

    Raises:
        ValueError: a setting is out of its range.

    Source: Yun et al. 2019, algorithm 1. One lam and one box a batch, as in the authors' code.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        prob: float = 1.0,
        *,
        lam: float | None = None,
        box: DrawBox = random_box,
        per_sample: bool = False,
        dense: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(alpha, prob, generator)
        if lam is not None and not 0 <= lam <= 1:
            raise ValueError(f"lam must lie in [0, 1], got {lam}")
        self.lam, self.box, self.per_sample, self.dense = lam, box, per_sample, dense

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | MixedTarget]:
        """Mix a batch.

        Args:
            x: [batch, ..., rows, columns], any type and layout; not changed. A batch of one meets itself.
            y: [batch, ...], targets of any kind.

        Returns:
            the mixed batch, and a `MixedTarget`; with `dense` the mixed maps.

        Raises:
            ValueError: `x` is no batch of images, or dense targets are not of their size.
        """
        size = _image_size(x)
        if self.dense and tuple(y.shape[-2:]) != size:
            raise ValueError(f"y must have maps of the image's size {size} for dense=True, got {tuple(y.shape)}")
        if not self._acts():
            return x, y
        count = len(x) if self.per_sample else 1
        lams = [draw_lam(self.alpha, self.generator) if self.lam is None else self.lam for _ in range(count)]
        perm = self._perm(x)
        drawn = [self.box(size, lam, self.generator) for lam in lams]
        boxes = drawn if self.per_sample else drawn[0]
        mixed = paste(x, perm, boxes)
        if self.dense:
            return mixed, paste(y, perm, boxes)
        kept = [box.kept(size) for box in drawn]
        lam = torch.tensor(kept, dtype=torch.float64, device=x.device) if self.per_sample else kept[0]
        return mixed, MixedTarget(y, y[perm], lam)


class Mixup(_Mixer):
    """`(x, y) -> (lam x + (1 - lam) x[perm], MixedTarget)`, one lam a batch: what CutMix is compared with.

    Args:
        alpha: lam ~ Beta(alpha, alpha); 0 for off.
        prob: of mixing a batch.
        generator: a CPU generator; torch's default one otherwise.
    """

    def __init__(self, alpha: float = 1.0, prob: float = 1.0, *, generator: torch.Generator | None = None) -> None:
        super().__init__(alpha, prob, generator)

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | MixedTarget]:
        """Mix a batch `x` [batch, ...] of a floating type, with targets `y` [batch, ...] of any kind.

        Raises:
            TypeError: `x` is not of a floating type.
        """
        if not x.is_floating_point():
            raise TypeError(f"x must be of a floating type to be blended, got {x.dtype}")
        if not self._acts():
            return x, y
        lam = draw_lam(self.alpha, self.generator)
        perm = self._perm(x)
        return torch.lerp(x[perm], x, lam), MixedTarget(y, y[perm], lam)


class Cutout(_Mixer):
    """`(x, y) -> (x with a box of zeros, y)`: CutMix's box without its paste, what CutMix is compared with.

    Args:
        alpha: the box covers 1 - lam of the image, lam ~ Beta(alpha, alpha); 0 for off.
        prob: of cutting a batch.
        lam: a fixed lam instead of a drawn one, for boxes of one size.
        box: draws a box from image size, lam and generator.
        generator: a CPU generator; torch's default one otherwise.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        prob: float = 1.0,
        *,
        lam: float | None = None,
        box: DrawBox = random_box,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(alpha, prob, generator)
        if lam is not None and not 0 <= lam <= 1:
            raise ValueError(f"lam must lie in [0, 1], got {lam}")
        self.lam, self.box = lam, box

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Cut a batch `x` [batch, ..., rows, columns]; `y` stays as it is."""
        size = _image_size(x)
        if not self._acts():
            return x, y
        lam = draw_lam(self.alpha, self.generator) if self.lam is None else self.lam
        box = self.box(size, lam, self.generator)
        cut = x.clone()
        cut[..., box.top : box.bottom, box.left : box.right] = 0
        return cut, y


class FeatureCutMix:
    """CutMix on a layer's output instead of the image: at each training forward pass, boxes of its map are exchanged.

        with FeatureCutMix(model.layer2) as features:
            loss = mixed_cross_entropy(model(x), features.target(y))

    The layer's output is [batch, ..., rows, columns]; in eval mode nothing is done. (The paper finds it better than no
    mixing and worse than CutMix.)

    Args:
        layer: whose output is mixed; called once a forward pass.
        alpha: lam ~ Beta(alpha, alpha); 0 for off.
        prob: of mixing a batch.
        generator: a CPU generator; torch's default one otherwise.
    """

    def __init__(
        self, layer: nn.Module, alpha: float = 1.0, prob: float = 1.0, *, generator: torch.Generator | None = None
    ) -> None:
        self._mix = CutMix(alpha, prob, generator=generator)
        self._mixed: MixedTarget | None = None
        self._handle = layer.register_forward_hook(self._after)

    def _after(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        if not layer.training:
            return output
        ids = torch.arange(len(output), device=output.device)
        mixed, target = self._mix(output, ids)
        self._mixed = target if isinstance(target, MixedTarget) else MixedTarget(ids, ids, 1.0)
        return mixed

    def target(self, y: Tensor) -> Tensor | MixedTarget:
        """The targets `y` [batch, ...] as the last training forward pass mixed them.

        Raises:
            RuntimeError: there has been none since the last call.
            ValueError: `y` is not of that batch's length.
        """
        if self._mixed is None:
            raise RuntimeError("no batch has passed through the layer in training mode since the last target()")
        ids, partners, lam = self._mixed
        if len(y) != len(ids):
            raise ValueError(f"y must have the batch's length {len(ids)}, got {len(y)}")
        self._mixed = None
        return y if lam == 1 else MixedTarget(y, y[partners], lam)

    def remove(self) -> None:
        """Leave the layer as it was."""
        self._handle.remove()

    def __enter__(self) -> "FeatureCutMix":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def _image_size(x: Tensor) -> tuple[int, int]:
    if x.ndim < 3 or x.numel() == 0:
        raise ValueError(f"x must be a batch of images [batch, ..., rows, columns], got shape {tuple(x.shape)}")
    return x.shape[-2], x.shape[-1]
