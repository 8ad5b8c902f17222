"""Next-byte prediction: a transformer or recurrent network on Python's standard library, or on any text file."""

import hashlib
import math
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from assay.data.digest import digest
from assay.data.text import standard_library, text_file
from assay.engine import Batch, Metric, Recipe, Splits, Task
from assay.errors import AssayError, UnknownName
from assay.models.recurrent import Recurrent
from assay.models.transformer import Transformer

MODELS = ("transformer", "lstm", "gru")
HELD_OUT = 1 << 16  # bytes to validate and to test, less where that would be over a twentieth of the text


class Text(Task):
    """A byte-level language model; the text's last parts validate and test.

    Args:
        path: a text file; the source of Python's standard library by default.
        model: `transformer`, or `lstm` or `gru`, whose state starts at zero in each example.
        context: bytes an example.
        width: of the transformer, a multiple of `heads`; or of embedding and state.
        depth: blocks, 2 by default; or recurrent layers, 1 by default.
        heads: of each attention, 4 by default; a recurrent network has none.
        train_size: examples to train on, spread evenly over the training part; all by default.

    Raises:
        AssayError: a size is not positive, `width` is no multiple of `heads`, or the model has no `heads`.
    """

    name = "text"
    metrics = (Metric("bits_per_byte", "min", 8.0, "bits"),)
    recipe = Recipe(
        optimizer="adamw", lr=3e-3, beta2=0.95, weight_decay=0.1, schedule="cosine", warmup=0.05, batch_size=16,
        clip_norm=1.0,
    )  # fmt: skip
    budget = "500steps"
    traits = frozenset({"text", "language-model"})

    def __init__(
        self,
        *,
        path: str | None = None,
        model: Literal["transformer", "lstm", "gru"] = "transformer",
        context: int = 64,
        width: int = 128,
        depth: int | None = None,
        heads: int | None = None,
        train_size: int | None = None,
    ) -> None:
        if model not in MODELS:
            raise UnknownName("model", model, MODELS)
        if heads is not None and model != "transformer":
            raise AssayError(f"heads needs model=transformer; the {model} has none")
        depth = depth if depth is not None else 2 if model == "transformer" else 1
        heads = heads if heads is not None else 4 if model == "transformer" else 1
        for name, value in (("context", context), ("width", width), ("depth", depth), ("heads", heads)):
            if value < 1:
                raise AssayError(f"{name} must be positive, got {value}")
        if train_size is not None and train_size < 1:
            raise AssayError(f"train_size must be positive, got {train_size}")
        if width % heads:
            raise AssayError(f"width must be a multiple of heads, got width={width} and heads={heads}")
        self.path, self.network, self.context = path, model, context
        self.width, self.depth, self.heads, self.train_size = width, depth, heads, train_size

    def settings(self) -> dict[str, Any]:
        sizes: dict[str, Any] = {"context": self.context, "width": self.width, "depth": self.depth}
        sizes |= {"heads": self.heads} if self.network == "transformer" else {"model": self.network}
        sizes |= {} if self.train_size is None else {"train_size": self.train_size}
        if self.path is None:
            return {"data": _standard_library()[1], "corpus": "Python's standard library", **sizes}
        path = Path(self.path).expanduser()
        text_file(path)
        return {"data": digest([path]), "corpus": path.name, **sizes}

    def splits(self, seed: int) -> Splits:
        content = _standard_library()[0] if self.path is None else text_file(Path(self.path).expanduser())
        held_out = min(len(content) // 20, HELD_OUT)
        if held_out <= self.context:
            raise AssayError(f"text must have at least {20 * (self.context + 1)} bytes, got {len(content)}")
        parts = np.split(content, [len(content) - 2 * held_out, len(content) - held_out])
        counts = (self.train_size, None, None)
        return Splits(*(Windows(part, self.context, count) for part, count in zip(parts, counts, strict=True)))

    def model(self) -> nn.Module:
        if self.network != "transformer":
            return Recurrent(self.network, width=self.width, depth=self.depth)
        return Transformer(context=self.context, width=self.width, depth=self.depth, heads=self.heads)

    def loss(self, outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats, averaged over an example's bytes."""
        values = cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(dim=1)
        return values if reduction == "none" else values.sum() if reduction == "sum" else values.mean()

    def outcomes(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"bits_per_byte": self.loss(model(batch.x), batch.y, "none") / math.log(2)}


class Windows:
    """Windows of `context` bytes one after another, each with the bytes that follow its own; the rest is left out.

    Args:
        content: the text; more than `context` bytes.
        context: length of a window.
        count: windows, spread evenly over the text; all by default.

    Raises:
        AssayError: the text has not as many.
    """

    def __init__(self, content: UInt8[np.ndarray, " bytes"], context: int, count: int | None = None) -> None:
        there = (len(content) - 1) // context
        self.content, self.context, self.count = content, context, there if count is None else count
        if self.count > there:
            raise AssayError(f"train_size must be at most {there} for this text, got {count}")
        self.stride = there // self.count * context

    def __len__(self) -> int:
        return self.count

    def batch(
        self, ids: Int64[Tensor, " batch"], generator: torch.Generator | None = None
    ) -> tuple[Int64[Tensor, "batch context"], Int64[Tensor, "batch context"]]:
        places = ids.numpy()[:, None] * self.stride + np.arange(self.context + 1)
        window = torch.from_numpy(self.content[places].astype(np.int64))
        return window[:, :-1], window[:, 1:]


@lru_cache(maxsize=1)
def _standard_library() -> tuple[UInt8[np.ndarray, " bytes"], str]:
    content = standard_library()
    return content, hashlib.sha256(content.tobytes()).hexdigest()[:16]
