"""The share of directions that hold most of the energy, against the formula written out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from teams import in_team

from svda_analysis.data import load_dataset
from svda_analysis.directions import direction_shares
from svda_analysis.sources import open_feed
from svda_analysis.specs import open_model
from svda_analysis.tap import records
from svda_analysis.team import ALONE


def shares(found, layer, source):
    return found[(found["layer"] == layer) & (found["source"] == source)]["mean"].to_numpy()


def needed(energy):
    largest = np.sort(energy)[::-1]
    return next(n for n in range(1, 99) if largest[:n].sum() >= 0.9 * energy.sum() * (1 - 1e-9)) / len(energy)


@pytest.mark.parametrize("kind", ["dot", "svda"])
def test_direction_shares_follow_their_formula(tiny, fashion, kind):
    subject, data = open_model(tiny[kind]), load_dataset("fashion_mnist", root=fashion)
    rows = direction_shares(subject, open_feed(data, subject), images=len(data))
    images, _ = next(data.batches(len(data)))
    for record in records(subject.model, images):
        q, k = (x.double().numpy() for x in (record.q, record.k))  # (B, H, N, D)
        sigma = np.ones(q.shape[1::2]) if record.sigma is None else record.sigma.detach().double().numpy()
        k = k - k.mean(2, keepdims=True)
        for head in range(len(sigma)):
            c_q, c_k = (np.einsum("bnd,bne->de", x[:, head], x[:, head]) / x[:, head, :, 0].size for x in (q, k))
            # the squared singular values of C_q^(1/2) S C_k^(1/2) are the eigenvalues of C_q S C_k S
            energy = np.linalg.eigvals(c_q @ np.diag(sigma[head]) @ c_k @ np.diag(sigma[head])).real
            assert shares(rows, record.layer, "data")[head] == pytest.approx(needed(energy))
            if record.sigma is not None:
                assert shares(rows, record.layer, "sigma")[head] == pytest.approx(needed(sigma[head] ** 2))
    assert (kind == "svda") == ("sigma" in set(rows["source"]))


def test_the_axes_of_q_and_k_and_what_all_keys_share_do_not_count(tiny, fashion):
    """Dot-product attention with other weights and the same maps: q M, k M^-T, and a constant on every key."""
    subject, data = open_model(tiny["dot"]), load_dataset("fashion_mnist", root=fashion)
    before = direction_shares(subject, open_feed(data, subject), images=40)
    generator = torch.Generator().manual_seed(0)
    for block in subject.model.blocks:
        attention = block.attention
        qkv, H, D = attention.qkv, attention.heads, attention.head_dim
        with torch.no_grad():
            weight, bias = qkv.weight.double().view(3, H, D, -1), qkv.bias.double().view(3, H, D, 1)
            mixing = torch.randn(H, D, D, dtype=torch.float64, generator=generator) + 2 * torch.eye(D)
            for at, turn in ((0, mixing.mT), (1, mixing.inverse())):
                weight[at], bias[at] = turn @ weight[at], turn @ bias[at]
            bias[1] += torch.randn(H, D, 1, generator=generator)
            qkv.weight.copy_(weight.flatten(0, 2))
            qkv.bias.copy_(bias.flatten())
    after = direction_shares(subject, open_feed(data, subject), images=40)
    np.testing.assert_array_equal(after["mean"], before["mean"])


def test_several_processes_count_what_one_counts(tiny, fashion):
    data = load_dataset("fashion_mnist", root=fashion)

    def work(team):
        subject = open_model(tiny["svda"])
        return direction_shares(subject, open_feed(data, subject), images=len(data), team=team)

    wanted = work(ALONE)
    assert wanted["n"].max() > 64  # batches of 64
    for found in in_team(2, work):
        pd.testing.assert_frame_equal(found, wanted, rtol=1e-12)
