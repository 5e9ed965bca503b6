"""The gap grows with the distance of checkpoints
==============================================

One recorded run, thinned to chords of more and more steps: what is unattributed, as a part of the
change that training made, and how far single shares are off. Shares are better than what their sum lacks.
"""

import torch
from torch.nn.functional import cross_entropy

import kernelscope as ks

train, test = ks.data.digits("train"), ks.data.digits("test")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
loader = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with ks.record(model, loader, loss=cross_entropy) as recording:
    for _ in range(4):
        for x, y in loader:
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()

exact = ks.decompose(recording.run, test.x[:4]).contributions
lengths, missing, errors = [2, 4, 8, 16, 32], [], []
for every in lengths:
    ledger = ks.decompose(recording.run.thinned(every), test.x[:4])
    missing.append(ledger.unattributed_of_change())
    errors.append(float((ledger.contributions - exact).norm() / exact.norm()))
found = ks.orders(lengths, {"unattributed": missing, "single shares": errors},
                  size_name="length of chords")
print(found)
assert all(error < part for error, part in zip(errors, missing, strict=True))
found.plot()
