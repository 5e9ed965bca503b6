"""A generated digit, split over the stages that made it
========================================================

A small diffusion model of digits. Sampling goes through eight stages, training through all noise levels: which noise
levels of training made which stage?
"""

import torch
from torch.nn.functional import mse_loss

import kernelscope as ks
from kernelscope.generative.networks import NoiseMLP

train = ks.data.digits("train")
torch.manual_seed(0)
points = torch.utils.data.DataLoader(list(train.x[:512] * 2 - 1), batch_size=64, shuffle=True)
denoiser, law = ks.generative.Denoiser(NoiseMLP(64, width=32), spread=0.75), ks.generative.NoiseLaw()
optimizer = torch.optim.Adam(denoiser.parameters(), lr=2e-3)
with ks.generative.record_diffusion(denoiser, points, law=law) as recording:
    for _ in range(4):
        for x in points:
            sigma = law.draw(len(x))
            y = x + sigma[:, None] * torch.randn_like(x)
            optimizer.zero_grad()
            mse_loss(denoiser(y, sigma), denoiser.target(x, y, sigma)).backward()
            optimizer.step()

made = ks.generative.explain_diffusion(recording.run, torch.randn(1, 64), labels=train.y[:512],
                                       levels=ks.generative.schedule(8), directions="displacement")
print(made)
made.plot()
