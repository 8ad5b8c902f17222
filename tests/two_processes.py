"""Two processes that train together, for tests of data parallelism."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_two_processes(work: Callable[[int], dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What `work(rank)` gives on each of two processes, of one gloo group.

    Both are apart from the test's own process, which keeps no thread or group of theirs, and end with it.

    Args:
        work: a function of a module; tensors and nestings of them are what it may give.
        folder: where the processes meet and leave what they found.
    """
    context = mp.get_context("spawn")
    workers = [context.Process(target=_rank, args=(rank, work, str(folder)), daemon=True) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=300)
        assert worker.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def _rank(rank: int, work: Callable[[int], dict[str, Any]], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", timedelta(seconds=60), rank=rank, world_size=2)
    try:
        torch.save(work(rank), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()
