"""Convolutions change nothing about the sum
============================================

A network of two convolutions, trained by Adam: its steps are unrolled with the divisors as they were recorded, and the
answer is a sum over training images again.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import kernelscope as ks

train, test = ks.data.digits("train"), ks.data.digits("test")
images = torch.utils.data.TensorDataset(train.x.view(-1, 1, 8, 8), train.y)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(),
                      nn.Flatten(), nn.Linear(64, 10))
loader = torch.utils.data.DataLoader(images, batch_size=64, shuffle=True)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

with ks.record(model, loader, loss=cross_entropy) as recording:
    for _ in range(4):
        for x, y in loader:
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()

why = ks.explain(recording.run, test.x[10:11].view(1, 1, 8, 8), targets=test.y[10:11])
assert why.decomposition.completeness() < 1e-12
print(why.sentence())
why.plot()
