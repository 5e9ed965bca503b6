"""Checkpoints alone give a ledger with a gap, and the gap has a size
=====================================================================

Nobody recorded this training; every tenth step a state dictionary was saved. Between two of them samples' gradients
are known at the ends only, and what that misses is unattributed.
"""

import torch
from torch.nn.functional import cross_entropy

import kernelscope as ks

train, test = ks.data.digits("train"), ks.data.digits("test")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
loader = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
saved = {0: {name: t.clone() for name, t in model.state_dict().items()}}
for _ in range(5):
    for x, y in loader:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        step = optimizer.state.setdefault("done", 0) + 1
        optimizer.state["done"] = step
        if step % 10 == 0:
            saved[step] = {name: t.clone() for name, t in model.state_dict().items()}

run = ks.from_checkpoints(saved, model=model, data=train, loss=cross_entropy, lr=0.1)
ledger = ks.decompose(run, test.x[:1], output=int(test.y[0]))
print(ledger)
print(ledger.gaps().head(3))
assert ledger.completeness() < 1e-12
ledger.plot()
