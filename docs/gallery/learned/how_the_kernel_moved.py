"""The kernel turns little, and towards the task
================================================

The tangent kernel of the network along its training: how far it lies from where it began, and how well it is aligned
with the classes.
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
    for _ in range(3):
        for x, y in loader:
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()

course = ks.evolution(recording.run, test.x[:80], test.y[:80], times=16, samples=160)
assert course.series["alignment"][-1] > course.series["alignment"][0]
print(course)
course.plot()
