"""The images of a run: what each process gets of an epoch, what is tested, that all of it follows from the recipe."""

import pytest
import torch
from accelerate import Accelerator

from svda_analysis import training_data
from svda_analysis.data import load_dataset
from svda_analysis.errors import InputError
from svda_analysis.model import ViTConfig
from svda_analysis.recipe import TrainConfig
from svda_analysis.training import train
from svda_analysis.training_data import TrainingData, both_parts, generator, mixed_seed


@pytest.fixture
def opened(fashion):
    """The tiny data set under a recipe without augmentation, so that images can be told from each other."""

    def opened(**changes):
        recipe = TrainConfig(**{"batch_size": 32, "flip": False, **changes})
        parts = (load_dataset("fashion_mnist", root=fashion, train=part) for part in (True, False))
        data = TrainingData(*parts, recipe)
        data.train.flip, data.train.padding = False, 0
        return data

    return opened


def images(batches):
    return torch.cat([images for images, _ in batches])


def test_an_epoch_holds_whole_batches_of_images_without_a_double(opened):
    data = opened()
    batches = list(data.batches(0, 0, 1))
    assert data.steps_per_epoch == len(batches) == 300 // 32
    assert {len(labels) for _, labels in batches} == {32}
    assert len(images(batches).flatten(1).unique(dim=0)) == 9 * 32


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_each_batch(world, opened):
    data = opened()
    shares = [list(data.batches(1, rank, world)) for rank in range(world)]
    for whole, *parts in zip(data.batches(1, 0, 1), *shares, strict=True):
        together = torch.stack([images for images, _ in parts], dim=1).flatten(0, 1)  # rank by rank, image by image
        assert torch.equal(together, whole[0])


def test_a_recipe_of_more_than_there_is_has_one_batch_of_all(opened):
    data = opened(batch_size=1000)
    assert data.steps_per_epoch == 1
    assert [len(labels) for _, labels in data.batches(0, 0, 1)] == [300]


def test_the_order_follows_from_seed_and_epoch(opened):
    def first(epoch, **changes):
        return next(opened(**changes).batches(epoch, 0, 1))[0]

    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))
    assert not torch.equal(first(3), first(3, seed=1))


def test_fewer_training_images_are_the_same_for_every_seed(opened):
    chosen = opened(train_images=40).learned_from
    assert len(chosen.unique()) == 40
    assert torch.equal(chosen, opened(train_images=40, seed=5).learned_from)
    assert torch.equal(opened().learned_from, torch.arange(300))
    assert len(opened(train_images=10**6).learned_from.unique()) == 300


def test_at_the_end_all_images_are_tested(opened):
    data = opened(epochs=3, monitor_images=20)
    assert [len(data.tested(epoch)) for epoch in (1, 2, 3)] == [20, 20, 120]
    assert torch.equal(data.tested(1), data.tested(2))
    assert torch.equal(opened(epochs=3).tested(1), torch.arange(120))


def test_the_probe_is_of_at_most_so_many_images(opened):
    assert len(images(opened(probe_images=70).probe())) == 70
    assert len(images(opened(probe_images=500).probe())) == 120
    assert torch.equal(images(opened(probe_images=9).probe()), images(opened(probe_images=9, seed=4).probe()))


def test_seeds_of_neighbours_lie_far_apart():
    seeds = {mixed_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    assert generator(1, 2).initial_seed() == mixed_seed(1, 2) != mixed_seed(2, 1)


def test_parts_that_are_open_are_taken_and_stay_as_they_are(fashion, tmp_path, monkeypatch):
    """They may be shared: augmentation is the run's own."""
    parts = both_parts("fashion_mnist", 28, fashion)
    before = [(part.flip, part.padding) for part in parts]
    monkeypatch.setattr(training_data, "load_dataset", lambda *_, **__: pytest.fail("read again"))
    config = ViTConfig(depth=1, dim=8, heads=2, patch_size=7)
    recipe = TrainConfig(epochs=1, flip=not parts[0].flip, crop_padding=3, train_images=64, probe_images=4)
    done = train(config, recipe, tmp_path / "a.pt", opened=parts)
    assert done.data["source"] == parts[0].source
    assert [(part.flip, part.padding) for part in parts] == before
    data = TrainingData.load(config, recipe, None, Accelerator(cpu=True), parts)
    assert (data.train.flip, data.train.padding) == (recipe.flip, 3)


def test_images_kept_for_validation_are_not_learned_from(opened):
    for seed in (0, 1):
        data = opened(validation_images=60, train_images=100, seed=seed)
        assert (len(data.validated), len(data.learned_from)) == (60, 100)
        assert not set(data.validated.tolist()) & set(data.learned_from.tolist())
        assert torch.equal(data.validated, opened(validation_images=60).validated)
    assert len(opened(validation_images=60).learned_from) == len(opened().train) - 60
    assert len(opened().validated) == 0


def test_pixels_may_stay_as_they_are(fashion, tmp_path):
    config = ViTConfig(dim=24, depth=1, heads=2)
    plan = TrainConfig(epochs=1, batch_size=60, probe_images=8, normalise=False, validation_images=60, rotation=10.0)
    done = train(config, plan, tmp_path / "a.pt", data_root=fashion)
    assert (done.data["mean"], done.data["std"]) == ([0.0], [1.0])
    found = done.history[done.history["source"] == "validation"].set_index("indicator")
    assert list(found["n"]) == [60, 60]
    assert 0 <= found.loc["accuracy", "mean"] <= 1
    with pytest.raises(InputError, match="validation_images must leave some of 300 images, got 300"):
        train(config, TrainConfig(validation_images=300), tmp_path / "b.pt", data_root=fashion)
