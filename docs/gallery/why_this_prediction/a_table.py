"""A row of a table, explained by other rows
============================================

Chemical analyses of wines from three growers (scikit-learn), and a small network on raw tensors. Pass words with
``class_names=`` and the answer speaks of them.
"""

import torch
from sklearn.datasets import load_wine
from torch.nn.functional import cross_entropy

import kernelscope as ks

table = load_wine()
x, y = torch.tensor(table.data).float(), torch.tensor(table.target)
x = (x - x.mean(0)) / x.std(0)
torch.manual_seed(0)
order = torch.randperm(len(x))
held, known = order[:30], order[30:]
model = torch.nn.Sequential(torch.nn.Linear(13, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
names = ["grower A", "grower B", "grower C"]

with ks.record(model, (x[known], y[known]), loss=cross_entropy, class_names=names) as recording:
    for _ in range(60):                              # all rows at each step, as tensors
        optimizer.zero_grad()
        cross_entropy(model(x[known]), y[known]).backward()
        optimizer.step()

why = ks.explain(recording.run, x[held[:1]], targets=y[held[:1]])
assert why.decomposition.completeness() < 1e-12
print(why.sentence())
why.plot()
