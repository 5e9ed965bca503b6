"""An answer is a sum over training samples
===========================================

The margin of the predicted digit over the runner-up, split over every digit that the network was trained on. The bars
add up to what training did, to the last digit: the residual is round-off.
"""

import torch
from torch.nn.functional import cross_entropy

import kernelscope as ks

train, test = ks.data.digits("train"), ks.data.digits("test")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
loader = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

with ks.record(model, loader, loss=cross_entropy) as recording:
    for _ in range(5):
        for x, y in loader:
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()

why = ks.explain(recording.run, test.x[:1])
assert why.decomposition.completeness() < 1e-12
print(why.sentence())
why.plot()
