"""A sharded layer is still one layer: its norms are those of the full tensor."""

import pytest
import torch
from torch import distributed, multiprocessing, nn

from assay.optim import FRUGAL, LAMB, LARS, AdaGradNorm

MAKERS = (
    LAMB,
    lambda p: LARS(p, 0.1, weight_decay=0.05),
    lambda p: LARS(p, 0.1, variant="2020"),
    *(lambda p, d=d: FRUGAL(p, 0.1, weight_decay=0.05, density=d, update_gap=2) for d in (0, 1)),
    lambda p: AdaGradNorm(p, weight_decay=0.05),
    lambda p: AdaGradNorm(p, granularity="row"),
)


def _steps(make, weight, gradient, spread):
    parameter = nn.Parameter(spread(weight.clone()))
    optimizer = make([parameter])
    for _ in range(3):
        parameter.grad = spread(gradient.clone())
        optimizer.step()
    return parameter.detach()


def _compare(rank, folder):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    draw = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(2, 6, 3, generator=draw, dtype=torch.float64)
    for make in MAKERS:
        whole = _steps(make, weight, gradient, lambda t: t)
        parts = _steps(make, weight, gradient, lambda t: distribute_tensor(t, mesh, [Shard(0)]))
        torch.testing.assert_close(parts.full_tensor(), whole, rtol=1e-13, atol=1e-14)
    with pytest.raises(TypeError, match="needs whole parameters, got a sharded"):
        FRUGAL([nn.Parameter(distribute_tensor(weight, mesh, [Shard(0)]))], projection="columns")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_shards_step_as_one_tensor(tmp_path):
    multiprocessing.spawn(_compare, (str(tmp_path),), nprocs=2)
