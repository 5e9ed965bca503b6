"""Tables with sparse gradients: the ledger is that of the same table with dense ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernelscope as ks
from tests.recordings import complete, points, relative, train

# Adagrad of torch makes sparse tensors without saying whether they are to be checked.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")

OPTIMIZERS = {
    "SGD": ("SGD", {"lr": 0.3}), "momentum": ("SGD", {"lr": 0.3, "momentum": 0.9}),
    "Nesterov": ("SGD", {"lr": 0.3, "momentum": 0.9, "nesterov": True}),
    "maximize": ("SGD", {"lr": 0.05, "momentum": 0.5, "maximize": True}), "Adagrad": ("Adagrad", {"lr": 0.2}),
}


class Words(nn.Module):
    """``kind`` is the layer that looks words up, or ``None`` for a table that is looked up by a function."""

    def __init__(self, kind, sparse):
        super().__init__()
        self.sparse, self.head = sparse, nn.Linear(4, 2)
        self.table = nn.Parameter(torch.randn(7, 4)) if kind is None else kind(7, 4, sparse=sparse)

    def forward(self, words):
        if isinstance(self.table, Tensor):
            return self.head(F.embedding(words, self.table, sparse=self.sparse).mean(1))
        h = self.table(words)
        return self.head(h if h.ndim == 2 else h.mean(1))


def words(seed, n=8):
    return torch.randint(7, (n, 3), generator=torch.Generator().manual_seed(seed))


def trained(kind, sparse, name, **options):
    torch.manual_seed(2)
    model = Words(kind, sparse).double()
    rule, numbers = OPTIMIZERS[name]
    return train(model, words(1), points()[1], getattr(torch.optim, rule)(model.parameters(), **numbers), diary=False,
                 **options)[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag, None])
def test_shares_through_a_sparse_table_are_those_through_a_dense_one(kind, name):
    dense, d = (ks.decompose(trained(kind, sparse, name), words(5, 2)) for sparse in (False, True))
    assert complete(d) <= 1e-12
    assert not d.channels["unattributed"].any()
    assert float(d.contributions.abs().max()) > 0
    assert relative(d.contributions, dense.contributions) <= 1e-12


def test_a_sparse_layer_is_read_as_fast_as_a_dense_one():
    dense, d = (ks.decompose(trained(nn.Embedding, sparse, "SGD"), words(5, 2)) for sparse in (False, True))
    assert d.info["engine"] == dense.info["engine"] == {"training": "layers", "queries": "layers"}


@pytest.mark.parametrize("name", ["momentum", "Adagrad"])
def test_steps_between_stored_ones_are_replayed_with_the_sparse_states(name):
    run, thin = trained(nn.Embedding, True, name), trained(nn.Embedding, True, name, keep=3)
    for a, b in zip(run.trajectory(0, 8), thin.trajectory(0, 8), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def test_a_step_of_sparse_adam_is_refused_by_name():
    model = Words(nn.Embedding, True).double()
    optimizers = [torch.optim.SparseAdam(model.table.parameters()), torch.optim.SGD(model.head.parameters(), lr=0.1)]
    with pytest.warns(UserWarning, match="SparseAdam"):
        run, _ = train(model, words(1), points()[1], optimizers, diary=False, steps=3)
    with pytest.raises(ks.errors.RuleError, match="SparseAdam"):
        ks.decompose(run, words(5, 2))
