"""What is recorded on a GPU is replayed and explained there, and the ledger closes as it does elsewhere."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks

pytestmark = pytest.mark.gpu

N, STEPS = 24, 12

NETWORKS = {
    "a perceptron with dropout": lambda: nn.Sequential(
        nn.Linear(16, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3)),
    "convolutions with batch norm": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(),
        nn.Linear(64, 3)),
}
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
}


def trained(name, optimizer, device, dtype, **options):
    torch.manual_seed(0)
    x, y = torch.randn(N, 16, dtype=dtype), torch.arange(N) % 3
    model = NETWORKS[name]().to(device, dtype)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    loader = DataLoader(TensorDataset(x, y), batch_size=6, shuffle=True)
    with ks.record(model, loader, loss=F.cross_entropy, **options) as recording:
        for _ in range(STEPS * 6 // N):
            for inputs, targets in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(inputs.to(device)), targets.to(device)).backward()
                optimizer.step()
    return model.eval(), recording.run, x


@pytest.mark.parametrize("keep", ["all", 4])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_ledger_closes(device, name, optimizer, keep):
    model, run, x = trained(name, optimizer, device, torch.float64, keep=keep)
    queries = x[:4].to(device)
    ledger = ks.decompose(run, queries)
    with torch.no_grad():
        truth = model(queries).cpu()
    assert ledger.completeness() <= 1e-12
    assert float((ledger.final - truth).abs().max()) <= 1e-10
    assert float(ledger.channels["unattributed"].abs().max()) == 0.0
    assert float(ledger.channels["rounding"].abs().max()) <= 1e-9


def test_the_ledger_of_float32_closes(device):
    model, run, x = trained("convolutions with batch norm", "AdamW", device, torch.float32)
    assert ks.decompose(run, x[:4].to(device)).completeness() <= 1e-5


def test_a_stored_run_opens_elsewhere(device, tmp_path):
    model, run, x = trained("a perceptron with dropout", "SGD", device, torch.float64, out=tmp_path / "run")
    here = ks.decompose(run, x[:4].to(device))
    there = ks.decompose(ks.load(tmp_path / "run", model=model.cpu()), x[:4])
    assert float((here.contributions.cpu() - there.contributions.cpu()).abs().max()) <= 1e-9


def test_looking_leaves_the_random_state_of_the_gpu_alone(device):
    _, run, x = trained("a perceptron with dropout", "SGD", device, torch.float64)
    before = torch.cuda.get_rng_state(device)
    ks.explain(run, x[:2].to(device))
    assert torch.equal(before, torch.cuda.get_rng_state(device))
