"""Which samples count in both runs, and which in one
=====================================================

The second run was trained without a quarter of the samples. Each dot is a training sample that both have, at how far
answers lean on it in each.
"""

import torch
from torch.nn.functional import cross_entropy

import kernelscope as ks

train, test = ks.data.digits("train"), ks.data.digits("test")


def trained(count):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 24), torch.nn.Tanh(), torch.nn.Linear(24, 10))
    data = torch.utils.data.TensorDataset(train.x[:count], train.y[:count])
    loader = torch.utils.data.DataLoader(data, batch_size=40, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with ks.record(model, loader, loss=cross_entropy) as recording:
        for _ in range(5):
            for x, y in loader:
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                optimizer.step()
    return recording.run


versus = ks.compare(trained(400), trained(300), test.x[:24], targets=test.y[:24], names=("400 digits", "300 digits"),
                    coverage=False)
print(versus.data)
versus.plot(show="samples")
