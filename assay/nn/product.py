"""A product of matrices as a layer, so that surgery can put another in its place."""

from jaxtyping import Float
from torch import Tensor, nn


class Product(nn.Module):
    """a b, matrix by matrix."""

    def forward(self, a: Float[Tensor, "*batch n m"], b: Float[Tensor, "*batch m q"]) -> Float[Tensor, "*batch n q"]:
        return a @ b
