"""An answer is settled long before its margin is
==============================================

The same contributions, booked by step instead of by sample. With momentum a step's whole effect is booked at once, so
that the dashed line runs ahead of the output and meets it at the end.
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
half, settled = why.learned()
print(f"half of it by step {half}, and the prediction has not changed since step {settled} of {len(recording.run)}")
assert settled < half
why.decomposition.plot()
