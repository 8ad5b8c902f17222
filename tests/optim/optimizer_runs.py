"""What the tests of optimizers share: parameters with the gradients of some steps, and what they are after them."""

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


def problem(seed=0, steps=4, dtype=torch.float64, shapes=()):
    """Parameters and, a tensor for each, gradients of every step."""
    draw = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)) for shape in shapes]
    grads = [torch.randn((steps, *shape), generator=draw, dtype=torch.float64).to(dtype) for shape in shapes]
    return parameters, grads


def run(optimizer, parameters, grads, first=0):
    for t in range(first, len(grads[0])):
        for parameter, g in zip(parameters, grads, strict=True):
            parameter.grad = g[t].clone()
        optimizer.step()


def close(parameters, wanted, **tolerance):
    for parameter, x in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(parameter.detach(), torch.as_tensor(x, dtype=parameter.dtype), **tolerance)


class NoWaiting(TorchDispatchMode):
    """Fails where a value is read off the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))
