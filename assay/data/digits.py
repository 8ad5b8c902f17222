"""scikit-learn's 1797 handwritten digits of 8x8 pixels.

Source: Alpaydin and Kaynak, "Optical recognition of handwritten digits" (UCI, 1998).
"""

import hashlib
from functools import cache

import numpy as np
from jaxtyping import Float32, Int64


@cache
def read_digits() -> tuple[Float32[np.ndarray, "1797 1 8 8"], Int64[np.ndarray, "1797"]]:
    """Images scaled from levels 0..16 to [-1, 1], and classes; to be read only, as all callers share them."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images.astype(np.float32)[:, None] / 8 - 1, found.target.astype(np.int64)


def digits_content() -> str:
    """What a trial's settings say of the data: the start of a hash."""
    images, labels = read_digits()
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16]
