"""Some of the target was out of reach of any samples
=====================================================

A run of so many steps of such a size moves its answers only so far in each direction. What is left of the target beyond
that no choice of training samples could have taught.
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
    for x, y in list(loader)[:10]:                   # a short run
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

missed = ks.null_space(recording.run, test.x[:60], test.y[:60])
print(missed)
assert 0 < missed.bound <= missed.error
missed.plot()
