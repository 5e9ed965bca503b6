"""What a sample added is not what its removal would change
===========================================================

Each dot is a training sample: to the right what it added to the loss of a held-out digit, upwards what its weight in
training would move. Their ranks agree in part only.

This is a calm training (lr 0.05, 100 steps). With lr 0.3 and 60 steps the LDS of the metagradient was .46, no better
than contribution (.45) and TracInCP (.47), and that of Gauss-Newton .66: influence through training foretells
retraining where training is smooth.
"""

import torch
from torch.nn.functional import cross_entropy

import kernelscope as ks

train, test = ks.data.digits("train"), ks.data.digits("test")
x, y = train.x[:200], train.y[:200]
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
with ks.record(model, (x, y), loss=cross_entropy) as recording:
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

asked = {"x": test.x[:1], "output": "loss", "targets": test.y[:1]}
added = ks.decompose(recording.run, **asked)
moves = ks.influence(recording.run, **asked)
both = moves.beside(added)
assert both.agreement[0] < 0.9
both.plot()
