"""The share of directions that hold most of the energy, against the formula written out."""

from __future__ import annotations

import numpy as np
import pytest

from svda_analysis.data import load_dataset
from svda_analysis.directions import direction_shares
from svda_analysis.sources import open_source
from svda_analysis.specs import open_model
from svda_analysis.tap import records


@pytest.mark.parametrize("kind", ["dot", "svda"])
def test_direction_shares_follow_their_formula(tiny, fashion, kind):
    subject, data = open_model(tiny[kind]), load_dataset("fashion_mnist", root=fashion)
    rows = direction_shares(subject, open_source(data, subject), images=len(data))
    images, _ = next(data.batches(len(data)))
    for record in records(subject.model, images):
        q, k = (x.double().square().mean((0, 2)).numpy() for x in (record.q, record.k))
        sigma = np.ones_like(q) if record.sigma is None else record.sigma.detach().double().numpy()
        for source, energy in (("data", sigma**2 * q * k), ("sigma", sigma**2)):
            found = rows[(rows["layer"] == record.layer) & (rows["source"] == source)]["mean"].to_numpy()
            if record.sigma is None and source == "sigma":
                assert not len(found)
                continue
            for head in range(len(energy)):
                largest = np.sort(energy[head])[::-1]
                needed = next(n for n in range(1, 99) if largest[:n].sum() >= 0.9 * energy[head].sum() * (1 - 1e-9))
                assert found[head] == pytest.approx(needed / energy.shape[1])
