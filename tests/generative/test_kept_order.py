"""A result that was kept is the same table as before, row by row."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch

from kernelscope.errors import StoreCorrupt
from kernelscope.generative.games.explaining import explain_gan
from kernelscope.generative.games.result import GANExplanation
from kernelscope.generative.stages.result import DiffusionExplanation
from kernelscope.generative.stages.stages import explain_diffusion
from kernelscope.generative.training import train_diffusion, train_gan
from kernelscope.result import put_together, taken_apart

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_kept_explanation_of_a_gan_has_its_rows_in_order(tmp_path):
    game = train_gan(X, latents=2, width=4, steps=5, batch=4, dtype=torch.float64)
    why = explain_gan(game, torch.ones(1, 2, dtype=torch.float64), how="path", progress=False)
    why.save(tmp_path / "why")
    kept = GANExplanation.load(tmp_path / "why")
    assert list(why.critic) != sorted(why.critic)
    assert list(kept.critic) == list(why.critic)
    pd.testing.assert_frame_equal(kept.to_frame(), why.to_frame())
    assert kept.summary() == why.summary()


def test_a_kept_explanation_of_a_sample_has_its_channels_in_order(tmp_path):
    run = train_diffusion(X, width=4, steps=5, batch=4, dtype=torch.float64)
    why = explain_diffusion(run, torch.ones(1, 3), directions="displacement", bins=2, progress=False)
    why.save(tmp_path / "why")
    kept = DiffusionExplanation.load(tmp_path / "why")
    assert list(why.channels) != sorted(why.channels)
    assert list(kept.channels) == list(why.channels)
    pd.testing.assert_frame_equal(kept.to_frame(), why.to_frame())


def test_an_order_is_one_of_the_names_and_may_be_missing():
    tensors: dict[str, torch.Tensor] = {}
    told = taken_apart({"b": torch.ones(1), "a": torch.zeros(1)}, "x.", tensors)
    written = json.loads(json.dumps(told, sort_keys=True))
    assert list(put_together(written, tensors, "here")) == ["b", "a"]
    # As results were kept before.
    assert list(put_together({"map": written["map"]}, tensors, "here")) == ["a", "b"]
    for order in (["b"], ["b", "b"], ["a", "c"], ["a", "b", "a"], "ab", {"a": 0, "b": 1}, [["a"], ["b"]]):
        with pytest.raises(StoreCorrupt, match="does not hold the fields"):
            put_together({**written, "order": order}, tensors, "here")
