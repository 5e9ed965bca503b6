"""What several processes decompose together, for ``test_large_runs``: ``torchrun`` starts this file in each of them."""

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

import kernelscope as ks
from kernelscope.decomposition.training_side import TrainingSide
from kernelscope.errors import KernelscopeError, ProcessLost
from tests.large_runs import QUERIES, arrays, trained


def together(out):
    """Many queries, one query, groups, a run that is replayed; what is said where processes differ, or one fails."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    run, thin, rank = trained("all"), trained(5), dist.get_rank()
    found = {
        "many": ks.decompose(run, QUERIES, distributed=True, progress=False),
        "one": ks.decompose(run, QUERIES[:1], "margin", distributed=True, progress=False),
        "groups": ks.decompose(run, QUERIES, "margin", groups=True, distributed=True, progress=False),
        "none": ks.decompose(run[:0], QUERIES, "margin", distributed=True, progress=False),
        "thin": ks.decompose(thin, QUERIES, "margin", memory=1, distributed=True, progress=False),
    }
    said = [raised(lambda: ks.decompose(run, QUERIES + rank, distributed=True, progress=False)),
            raised(lambda: ks.decompose(run, failing(run, rank), distributed=True, progress=False))]
    torch.save({"found": {name: arrays(d) for name, d in found.items()}, "said": said}, f"{out}.{rank}")
    dist.destroy_process_group()


def raised(work):
    try:
        work()
    except KernelscopeError as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def failing(run, rank):
    """The queries, after which the training side of one process meets an error half way through the run."""
    products = TrainingSide.products

    def broken(side, batch, k, *others):
        if rank == 1 and k == 10:
            TrainingSide.products = products
            raise ks.errors.NonFiniteError("step 10 is no number.")
        return products(side, batch, k, *others)

    TrainingSide.products = broken
    return QUERIES


def one_ends(store):
    """What the others say when one ends without a word."""
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2,
                            timeout=timedelta(seconds=60))
    products = TrainingSide.products

    def dying(side, batch, k, *others):
        if rank == 1 and k == 10:
            os._exit(7)
        return products(side, batch, k, *others)

    TrainingSide.products = dying
    try:
        ks.decompose(trained("all"), QUERIES, distributed=True, progress=False)
    except ProcessLost as error:
        sys.stdout.write(str(error))
        sys.stdout.flush()
        os._exit(3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"together": together, "one_ends": one_ends}[sys.argv[1]](sys.argv[2])
