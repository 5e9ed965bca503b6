"""How fast errors fall with samples is a property of the kernel
=============================================================

Errors on held-out digits by the number of training digits, for the kernels of two networks of infinite width, one of
convolutions and one without.
"""

import torch

import kernelscope as ks
from kernelscope.kernels.infinite import Conv, Dense, Flatten, ReLU, Serial

train, test = ks.data.digits("train"), ks.data.digits("test")


def pictures(digits, count):
    answers = torch.nn.functional.one_hot(digits.y[:count]).double() - 0.1
    return digits.x[:count].double().view(-1, 1, 8, 8), answers


convolutions = Serial(Conv(3, W_std=2**0.5), ReLU(), Flatten(), Dense())
dense = Serial(Flatten(), Dense(W_std=2**0.5), ReLU(), Dense())
curves = ks.learning_curves({"convolutions, infinite": convolutions.ntk, "dense, infinite": dense.ntk},
                            pictures(train, 800), pictures(test, 200), samples=[25, 50, 100, 200, 400], repeats=3)
print(curves)
curves.plot()
