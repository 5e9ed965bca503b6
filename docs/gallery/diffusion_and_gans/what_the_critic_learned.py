"""A critic's score is a sum over real and generated points
===========================================================

The critic of a small GAN, step by step: what real images pushed up, what generated ones pushed down. The score is
what is left of the two.
"""

import torch
from torch.nn.functional import softplus

import kernelscope as ks

train, test = ks.data.digits("train"), ks.data.digits("test")
torch.manual_seed(0)
points = torch.utils.data.DataLoader(list(train.x[:512] * 2 - 1), batch_size=64, shuffle=True)
generator = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.SiLU(), torch.nn.Linear(32, 64))
critic = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.SiLU(), torch.nn.Linear(32, 1))
moving, judging = (torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.5, 0.9)) for net in (generator, critic))
with ks.generative.record_gan(generator, critic, points) as recording:
    for _ in range(6):
        for x in points:
            judging.zero_grad()
            fake = generator(torch.randn(len(x), 16)).detach()
            (softplus(-critic(x)).mean() + softplus(critic(fake)).mean()).backward()
            judging.step()
            moving.zero_grad()
            softplus(-critic(generator(torch.randn(len(x), 16)))).mean().backward()
            moving.step()

judged = ks.generative.witness(recording.run, test.x[:2] * 2 - 1, labels=train.y[:512])
print(judged)
judged.plot()
