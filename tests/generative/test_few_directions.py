"""A few queries meet a batch by derivatives of its losses, many by the gradients of its samples: the same shares."""

import pytest
import torch

import kernelscope as ks
from kernelscope.decomposition import training_side

from .random_games import small_game


@pytest.mark.parametrize("r1", [0.0, 0.5])
def test_few_and_many_queries_have_the_same_shares(r1):
    game = small_game(r1=r1)
    x = torch.randn(training_side.FEW + 4, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    together = ks.decompose(game.critic, x, output=0)
    alone = torch.cat([ks.decompose(game.critic, x[q:q + 1], output=0).contributions for q in range(len(x))])
    torch.testing.assert_close(alone, together.contributions, rtol=1e-11, atol=1e-13)


def test_each_count_takes_its_own_way(monkeypatch):
    game, taken = small_game(r1=0.5), []
    for name in ("_by_batch", "_transformed_rows"):
        way = getattr(training_side.TrainingSide, name)
        monkeypatch.setattr(training_side.TrainingSide, name,
                            lambda self, *args, way=way, name=name: taken.append(name) or way(self, *args))

    def ways(count):
        taken.clear()
        ks.decompose(game.critic, torch.zeros(count, 2, dtype=torch.float64), output=0)
        return taken.count("_transformed_rows")

    # Samples' gradients are made to choose the ways, and at every step where there are many directions.
    assert ways(1) < len(game.critic) <= ways(training_side.FEW + 1)
