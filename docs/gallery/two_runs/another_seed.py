"""A new seed changes what an answer leans on more than the answer
==================================================================

Two runs of the same script from two seeds, asked about the same held-out digits. Hollow marks are the nulls: what
untrained networks, shuffled samples or chance would give.
"""

import torch
from torch.nn.functional import cross_entropy

import kernelscope as ks

train, test = ks.data.digits("train"), ks.data.digits("test")
data = torch.utils.data.TensorDataset(train.x[:400], train.y[:400])


def trained(seed, data):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 24), torch.nn.Tanh(), torch.nn.Linear(24, 10))
    loader = torch.utils.data.DataLoader(data, batch_size=40, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with ks.record(model, loader, loss=cross_entropy) as recording:
        for _ in range(5):
            for x, y in loader:
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                optimizer.step()
    return recording.run


versus = ks.compare(trained(0, data), trained(1, data), test.x[:24], targets=test.y[:24],
                    names=("seed 0", "seed 1"), coverage=False)
print(versus)
assert versus.measure("agreement").value > versus.measure("overlap").value
versus.plot()
