"""Models of equal size: how accurate each way to it leaves them, without fine-tuning and with."""

from __future__ import annotations

import pytest
import torch

from svda_analysis.checkpoint import build_model
from svda_analysis.compression.budgets import accuracy_at_budgets
from svda_analysis.compression.finetuning import finetune
from svda_analysis.compression.images import OpenedData, training_images, unseen_images
from svda_analysis.compression.removal import compress, kept_share
from svda_analysis.compression.run import compress_and_verify
from svda_analysis.compression.verification import Whole
from svda_analysis.errors import InputError
from svda_analysis.specs import open_model

BUDGETS = (0.5, 0.25, 0.01)  # one direction a head is more than the last


@pytest.fixture(scope="module")
def wholes(tiny, fashion):
    """Of each kind the whole model on 60 test images, and images to rank by."""
    opened, found = OpenedData(fashion), {}
    for kind, path in tiny.items():
        subject = open_model(path)
        images, _, _ = training_images(subject, None, opened, number=20, held_out=2, seed=0)
        found[kind] = Whole(subject, unseen_images(subject, None, opened), 60, 0), images
    return found


def share_right(whole: Whole, checkpoint) -> float:
    """Accuracy by another way: one forward of the same test images."""
    images, labels = (torch.cat(x) for x in zip(*whole.feed.batches(7, 60, 0), strict=True))
    with torch.no_grad():
        return float((build_model(checkpoint).eval()(images).argmax(-1) == labels).double().mean())


@pytest.mark.parametrize(("kind", "criteria"), [("svda", ["operator"]), ("dot", ["operator", "sigma"])])
def test_each_row_is_the_accuracy_of_that_smaller_model(kind, criteria, wholes):
    whole, images = wholes[kind]
    rows = accuracy_at_budgets(whole, images, BUDGETS)
    assert rows[["criterion", "budget"]].to_numpy().tolist() == [[c, b] for c in criteria for b in BUDGETS[:2]]
    origin = whole.subject.checkpoint
    for row in rows.itertuples():
        smaller = compress(origin, images, budget=row.budget, criterion=row.criterion)
        assert row.rows_removed == pytest.approx(1 - kept_share(build_model(smaller)))
        assert 1 - row.rows_removed <= row.budget
        assert row.removed == pytest.approx(share_right(whole, smaller))
        assert row.removed_change == pytest.approx(row.removed - row.whole)
    assert rows["whole"].to_list() == pytest.approx([share_right(whole, origin)] * len(rows))
    assert rows[["finetuned", "finetuned_low"]].isna().all(axis=None)


def test_fine_tuning_begins_at_the_smaller_model(wholes, fashion):
    whole, images = wholes["dot"]
    given = []

    def tuned(smaller):
        given.append(smaller)
        return finetune(smaller, whole.subject.model, 1, images=100, data_root=fashion)

    rows, points = accuracy_at_budgets(whole, images, (0.5,), finetuned=tuned), []
    assert rows["finetuned"].to_list() == pytest.approx([share_right(whole, tuned(smaller)) for smaller in given[:2]])
    accuracy_at_budgets(whole, images, (0.5, 0.3), progress=lambda *point: points.append(point))
    assert points == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_model_that_is_no_checkpoint_is_refused(wholes):
    whole, images = wholes["dot"]
    other = Whole(whole.subject.like(whole.subject.model), whole.feed, 60, 0)
    object.__setattr__(other.subject, "checkpoint", None)
    with pytest.raises(InputError, match="must be a checkpoint of svda train"):
        accuracy_at_budgets(other, images, (0.5,))


def test_compressing_tabulates_what_is_asked_for(tiny, fashion):
    options = {"budget": 0.5, "data_root": fashion, "test_images": 30, "sweep_images": 0}
    done = compress_and_verify(tiny["dot"], accuracy_at=(0.4,), epochs=1, finetune_images=100, **options)
    assert list(done.budgets["criterion"]) == ["operator", "sigma"]
    assert done.budgets["finetuned"].notna().all()
    assert done.meta["finetune_images"] == 100
    assert compress_and_verify(tiny["dot"], **options).budgets.empty
    with pytest.raises(InputError, match=r"accuracy_at must lie in \(0, 1\], got 40"):
        compress_and_verify(tiny["dot"], accuracy_at=(40,), **options)
    with pytest.raises(InputError, match="finetune_images must be at least 1, got 0"):
        compress_and_verify(tiny["dot"], finetune_images=0, **options)
