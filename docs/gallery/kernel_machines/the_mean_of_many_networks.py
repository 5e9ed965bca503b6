"""Infinitely many networks, trained without training
=====================================================

The mean and spread of networks of infinite width, trained from every random start, in closed form: the answer for one
held-out digit.
"""

import torch

import kernelscope as ks
from kernelscope.kernels.infinite import Dense, ReLU, Serial

train, test = ks.data.digits("train"), ks.data.digits("test")
net = Serial(Dense(W_std=2**0.5), ReLU(), Dense(W_std=2**0.5), ReLU(), Dense())
answers = torch.nn.functional.one_hot(train.y[:400]).double() - 0.1
after = ks.posterior(net, train.x[:400].double(), answers, test.x[:20].double(), ridge=1e-4, of="ensemble")
print(after)
after.plot(output=int(test.y[0]))
