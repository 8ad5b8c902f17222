"""Two processes joined by gloo, for tests of what happens under data parallelism."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_two_ranks(work: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """What `work(rank, *args)` gives in each of two processes.

    Both are apart from this process, which keeps no thread or group of theirs, and end with it if they hang.

    Args:
        work: a function of a test module's own; it gives tensors, numbers and nestings of them.
        folder: where they meet and leave what they found.
        args: passed on.
    """
    context = mp.get_context("forkserver")  # forks from a process that has done the imports once and no more
    context.set_forkserver_preload(["assay.trials.job", "torch._dynamo", "torch.distributed.fsdp"])
    ranks = [context.Process(target=_rank, args=(rank, work, str(folder), args), daemon=True) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=300)
        assert rank.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def _rank(rank: int, work: Callable[..., Any], folder: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", timedelta(seconds=60), rank=rank, world_size=2)
    try:
        torch.save(work(rank, *args), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()
