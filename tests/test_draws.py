"""What is drawn for an image follows from purpose, seed and the image's number."""

import numpy as np
import torch

from svda_analysis.draws import draws_of_images


def test_what_is_drawn_follows_from_purpose_seed_and_image_alone():
    draws = draws_of_images("patches", range(5, 8), (1000,), seed=2**63 - 1)
    assert torch.equal(draws_of_images("patches", [7], (1000,), seed=2**63 - 1)[0], draws[2])
    others = [draws_of_images(what, [5], (1000,), seed)[0] for what, seed in (("ranking", 2**63 - 1), ("patches", 0))]
    assert np.abs(np.corrcoef(torch.stack([*draws, *others]))[np.triu_indices(5, 1)]).max() < 0.15


def test_draws_are_uniform_or_as_was_asked():
    uniform, normal = (draws_of_images("x", [3], (20_000,), 0, draw)[0] for draw in (torch.rand, torch.randn))
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(normal.mean()) < 0.03
    assert abs(normal.std() - 1) < 0.03
