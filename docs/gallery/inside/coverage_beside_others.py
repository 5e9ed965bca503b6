"""Coverage beside seven other scores, and a null that needs no network
=======================================================================

Which score tells digits that were never shown from those that were? The null, the distance to the nearest training
image in pixels, has to be passed first.
"""

import torch
from torch.nn.functional import cross_entropy

import kernelscope as ks

train, test = ks.data.digits("train"), ks.data.digits("test")
few = train.y < 8
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 8))
data = torch.utils.data.TensorDataset(train.x[few][:600], train.y[few][:600])
loader = torch.utils.data.DataLoader(data, batch_size=50, shuffle=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
with ks.record(model, loader, loss=cross_entropy) as recording:
    for _ in range(5):
        for x, y in loader:
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()

known = ks.coverage(recording.run, test.x[test.y < 8], targets=test.y[test.y < 8])
unknown = ks.coverage(recording.run, test.x[test.y >= 8])
told = ks.separation([(known, unknown)])
print(told)
told.plot()
