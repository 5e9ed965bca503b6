"""A kernel machine is its centers, and each has a share
========================================================

The same question as of a network, asked of a fitted kernel machine: which centers made this value?
"""

import torch

import kernelscope as ks

train, test = ks.data.digits("train"), ks.data.digits("test")
x, y = train.x.double(), torch.nn.functional.one_hot(train.y).double()
machine = ks.fit(ks.kernels.Laplacian(), x, y, centers=400, ridge=1e-6, intercept=True)
right = (machine(test.x.double()).argmax(1) == test.y).double().mean()
print(f"right on {right:.1%} of held-out digits")
shares = machine.contributions(test.x[:1].double())
shares.plot(output=int(test.y[0]))
