"""What holds images, as one stream for a model: the same images each time, in the model's way."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SubsetRandomSampler, TensorDataset

from svda_analysis.analysis import analyze
from svda_analysis.data import load_dataset
from svda_analysis.errors import InputError
from svda_analysis.map_comparison import compare_maps
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.sources import as_learned, image_files, open_feed
from svda_analysis.specs import open_model
from svda_analysis.subject import Subject
from svda_analysis.team import Team


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({}, 20),
        ({"drop_last": True}, 18),
        ({"sampler": SubsetRandomSampler(range(5, 15))}, 10),
        ({"sampler": SubsetRandomSampler(range(5, 15)), "drop_last": True}, 6),
        ({"sampler": iter(range(20))}, 20),
    ],
)
def test_a_loader_tells_how_many_images_it_gives(model, numbered, options, given):
    source = open_feed(DataLoader(numbered, 6, **options), Subject(model=model, name="own"))
    assert source.total == given
    assert sum(len(images) for images, _ in source.batches(6, None, 0)) == given


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ViT(ViTConfig(attention="dot", image_size=12, dim=24, depth=2, heads=2)).eval()


@pytest.fixture(scope="module")
def numbered():
    """Images that hold their own number, which is their label too."""
    labels = torch.arange(20)
    return TensorDataset(labels[:, None, None, None].float().expand(-1, 1, 12, 12).clone(), labels)


def numbers(source, images=None, seed=0, size=7):
    """The numbers of the images that a source gives, and those of its labels."""
    batches = list(source.batches(size, images, seed))
    shown = torch.cat([batch[:, 0, 0, 0] for batch, _ in batches]).long().tolist()
    given = [labels for _, labels in batches if labels is not None]
    return shown, torch.cat(given).tolist() if given else None


def shuffled(data, **options):
    generator = torch.Generator().manual_seed(3)
    return {
        "its own generator": DataLoader(data, 4, shuffle=True, generator=generator, **options),
        "the global one": DataLoader(data, 4, shuffle=True, **options),
        "a part": DataLoader(data, 4, sampler=SubsetRandomSampler(range(5, 15)), **options),
        "whole batches": DataLoader(data, batch_size=None, sampler=RandomSampler(data), **options),
    }


@pytest.mark.parametrize("name", ["its own generator", "the global one", "a part"])
def test_a_shuffled_loader_gives_the_same_images_each_time(numbered, model, name):
    loader, subject = shuffled(numbered)[name], open_model(model)
    state, own = torch.get_rng_state(), getattr(loader.sampler, "generator", None)
    before = None if own is None else own.get_state()
    first, labels = numbers(open_feed(loader, subject))
    assert first == labels != sorted(first)
    assert numbers(open_feed(loader, subject))[0] == first
    assert torch.equal(torch.get_rng_state(), state)  # and draws nothing from the generators of others
    assert own is None or torch.equal(own.get_state(), before)


def test_a_model_attends_like_itself_through_a_shuffled_loader(model):
    data = TensorDataset(torch.randn(16, 1, 12, 12, generator=torch.Generator().manual_seed(0)))
    for name in ("its own generator", "the global one"):
        found = compare_maps(model, model, shuffled(data)[name], images=16)["layers"]
        same = found[(found["images"] == "same") & (found["measure"] == "js")]
        np.testing.assert_allclose(same["mean"], 1, atol=1e-6)


def test_batches_that_a_data_set_makes_itself(model):
    class Batches(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return torch.full((4, 1, 12, 12), float(index)), torch.full((4,), index)

    source = open_feed(shuffled(Batches())["whole batches"], open_model(model))
    assert numbers(source) == numbers(source)
    assert sorted(set(numbers(source)[0])) == [0, 1, 2]


def test_a_loader_keeps_its_batches_and_how_it_makes_them(numbered, model):
    loader = DataLoader(numbered, 6, collate_fn=lambda items: torch.stack([image + 100 for image, _ in items]))
    batches = list(open_feed(loader, open_model(model)).batches(2, 9, 0))
    assert [len(batch) for batch, _ in batches] == [6, 3]
    assert [labels for _, labels in batches] == [None, None]
    assert batches[0][0][0, 0, 0, 0] == 100


def test_a_data_set_is_drawn_from_and_a_tensor_read_from_its_start(numbered, model):
    subject = open_model(model)
    drawn, labels = numbers(open_feed(numbered, subject), images=5, seed=1)
    assert drawn == labels == torch.randperm(20, generator=torch.Generator().manual_seed(1))[:5].tolist()
    assert numbers(open_feed(numbered.tensors[0], subject), images=5) == ([0, 1, 2, 3, 4], None)


class Stream(IterableDataset):
    """Images without end, for all that is known."""

    def __iter__(self):
        return iter([(torch.zeros(1, 12, 12), 0)] * 5)


def test_what_is_no_data_is_said(model):
    subject = open_model(model)
    for given, complaint in (
        (None, "data must be given"),
        ([1, 2], "a tensor, a Dataset or a DataLoader, got list"),
        (torch.zeros(3, 12, 12), r"float images \(B, C, H, W\), got torch.float32 \(3, 12, 12\)"),
        (torch.zeros(0, 1, 12, 12), "float images"),
        (torch.zeros(2, 1, 12, 12, dtype=torch.uint8), "got torch.uint8"),
        (TensorDataset(torch.zeros(0, 1, 12, 12)), "at least one image"),
        (Stream(), "data must have a length, got the stream Stream: take a tensor of it"),
        (DataLoader(Stream(), batch_size=2), "data must have a length, got the stream Stream"),
    ):
        with pytest.raises(InputError, match=complaint):
            open_feed(given, subject)


def test_images_come_in_the_way_of_each_model_from_one_reading(tiny, fashion):
    subject, opened = open_model(tiny["svda"]), {}
    other = open_model(tiny["dot"], preprocessing={"mean": (0.25,), "std": (0.5,)})
    sources = [open_feed("fashion_mnist", one, fashion, opened=opened) for one in (subject, other)]
    assert len(opened) == 1
    ours, theirs = (next(iter(source.batches(10, 10, 0)))[0] for source in sources)
    mean, std = subject.data["mean"][0], subject.data["std"][0]
    torch.testing.assert_close(ours * std + mean, theirs * 0.5 + 0.25)
    assert sources[1].normalisation == ((0.25,), (0.5,))


def test_classes_that_the_model_did_not_learn_give_no_labels(tiny, fashion):
    subject = open_model(tiny["svda"])
    known = {**subject.data, "classes": ["a", "b"]}
    stranger = Subject(model=subject.model, name="x", checkpoint=subject.checkpoint)
    object.__setattr__(stranger.checkpoint, "data", known)
    source = open_feed(load_dataset("fashion_mnist", root=fashion), stranger)
    assert "are not those that the model learned" in source.warnings[0]
    assert next(iter(source.batches(4, 4, 0)))[1] is None
    assert (source.examples(3)[1] == -1).all()


def test_images_that_do_not_fit_are_named(tiny, fashion):
    data = load_dataset("fashion_mnist", root=fashion)
    with pytest.raises(InputError, match="fashion_mnist images are grey 28 x 28, the model takes grey 12 x 12"):
        as_learned(data, open_model(ViT(ViTConfig(attention="dot", image_size=12, dim=24, depth=1, heads=2))))
    with pytest.raises(InputError, match=r"a number for each channel of the data \(1\), got 3"):
        as_learned(data, open_model(tiny["svda"], preprocessing={"mean": (0.5,) * 3, "std": (0.5,) * 3}))


def test_a_data_set_that_names_its_classes_says_how_many_scores_a_classifier_has(model, numbered):
    class Named(Dataset):
        classes = ("ant", "bee", "cow")

        def __len__(self):
            return 9

        def __getitem__(self, index):
            return torch.zeros(1, 12, 12), index % 3

    subject = open_model(model)
    for given in (Named(), DataLoader(Named(), 3)):
        source = open_feed(given, subject)
        assert source.scores == 10  # a classifier of this model has as many
        assert source.warnings == ["Named has 3 classes and the model 10: no accuracy is given"]
        source = open_feed(given, open_model(nn.Flatten()))  # which says nothing of its classes
        assert (source.classes, source.scores) == (Named.classes, 3)
    assert (open_feed(numbered, subject).classes, open_feed(numbered, subject).scores) == ((), 0)


# --- data as people have them -----------------------------------------------------------------------------------------


class Table:
    """Rows by number with ``features``, as a data set of Hugging Face has them; pictures of PIL of several sizes."""

    def __init__(self, names, *, labels="label"):
        self.names, self.labels = names, labels
        self.features = {"image": None, labels: SimpleNamespace(names=list(names))}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        picture = Image.new("RGB", (20 + 3 * index, 16), (60 * index, 0, 0))
        return {"image": picture, self.labels: index % len(self.names)}


class Pixels(nn.Module):
    """Answers with the mean of a channel for each class; attends to its patches."""

    num_classes = 3

    def __init__(self, classes=("red", "green", "blue"), channels=3):
        super().__init__()
        self.classes, self.patch = classes, nn.Conv2d(channels, 12, 4, 4)

    def forward(self, x):
        t = self.patch(x).flatten(2).mT[:, None]
        return nn.functional.scaled_dot_product_attention(t, t, t).mean((1, 2))[:, :3] * 0 + x.mean((2, 3))


def small(model, **fields):
    own = {"image_size": 16, "mean": (0.0,) * 3, "std": (1.0,) * 3, **fields}
    return open_model(model, preprocessing=own)


def test_a_table_of_pictures_is_data_in_the_way_of_the_model():
    subject = small(Pixels())
    source = open_feed(Table(["green", "red"]), subject)
    (images, labels), (more, _) = source.batches(3, None, 0)
    assert (images.shape, more.shape) == ((3, 3, 16, 16), (1, 3, 16, 16))
    order = (images[:, 0, 0, 0] * 255 / 60).round().long()
    assert labels.tolist() == [1 - int(at) % 2 for at in order]  # by name: red is the model's 0, green its 1
    assert source.preprocessing.image_size == 16
    assert open_feed(Table(["cat", "dog"], labels="labels"), subject).warnings == [
        "the classes of Table are not those that the model learned: no accuracy is given"
    ]
    with pytest.raises(InputError, match="data must be one part of a data set, got train, test: name one of them"):
        open_feed({"train": Table(["a"]), "test": Table(["a"])}, subject)


def test_accuracy_of_a_table_is_that_of_the_names():
    result = analyze(small(Pixels()), Table(["green", "red"]), indicators=["attention_entropy"], examples=1)
    accuracy = result.table[result.table["indicator"] == "accuracy"]
    assert accuracy["mean"].tolist() == [0.5]  # the red ones; the first is black, and red by its place


@pytest.mark.parametrize("collate", ["dicts", "named", "mapping of arguments"])
def test_batches_by_name_are_measured(collate):
    rows = [{"pixel_values": torch.rand(3, 16, 16), "labels": at % 3, "file": f"{at}.png"} for at in range(4)]
    collates = {
        "dicts": None,
        "named": lambda batch: {"image": torch.stack([x["pixel_values"] for x in batch]), "label": [0, 1]},
        "mapping of arguments": lambda batch: {"pixel_values": torch.stack([x["pixel_values"] for x in batch])},
    }
    loader = DataLoader(rows, batch_size=2, collate_fn=collates[collate])
    result = analyze(small(Pixels(classes=())), loader, indicators=["attention_entropy"], examples=1)
    assert (result.table[result.table["indicator"] == "attention_entropy"]["n"] == 4).all()
    assert ("accuracy" in set(result.table["indicator"])) == (collate != "mapping of arguments")


@pytest.mark.parametrize("channels", [1, 4, 13])
def test_channels_of_a_model_are_those_of_its_images(tmp_path, channels):
    Image.new("RGB", (20, 16), (255, 0, 0)).save(tmp_path / "a.png")
    way = {"mean": (0.5,), "std": (0.5,)} if channels == 1 else {}
    subject = open_model(Pixels(channels=channels), preprocessing={"image_size": 16, **way})
    if channels == 1:
        (batch, labels), *_ = open_feed(f"images:{tmp_path}", subject).batches(1, None, 0)
        assert (batch.shape, labels) == ((1, 1, 16, 16), None)
        torch.testing.assert_close(batch.mean(), torch.tensor((76 / 255 - 0.5) / 0.5))  # 0.299 of red
    else:
        with pytest.raises(InputError, match=rf"images are RGB 16 x 16, the model takes {channels}-channel 16 x 16"):
            open_feed(f"images:{tmp_path}", subject)


def test_a_pipe_among_the_named_images_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match="is a pipe, a socket or a device, expected an image"):
        image_files([tmp_path / "a.png"])


class Counted(Dataset):
    """Images that hold their own number, and which of them were read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return 20

    def __getitem__(self, at):
        self.read.append(at)
        return torch.full((1, 12, 12), float(at)), at


@pytest.mark.parametrize("kind", ["data set", "loader", "tensor", "name"])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_the_batches_of_a_team_are_those_of_one_process_each_in_one(kind, world, model, numbered):
    if kind == "name":
        torch.manual_seed(0)
        model = ViT(ViTConfig(dim=24, depth=1, heads=2))
    of_kind = {"data set": numbered, "loader": DataLoader(numbered, 6), "tensor": numbered.tensors[0], "name": "sample"}
    source = open_feed(of_kind[kind], open_model(model))
    wanted, found = list(source.batches(6, 17, 3)), {}
    for rank in range(world):
        for first, images, labels in source.dealt(6, 17, 3, Team(rank, world)):
            assert first // 6 % world == rank
            found[first] = images, labels
    assert sorted(found) == [0, 6, 12]
    for at, (images, labels) in enumerate(wanted):
        assert torch.equal(found[6 * at][0], images)
        assert labels is found[6 * at][1] is None or torch.equal(found[6 * at][1], labels)


def test_an_image_of_another_process_is_not_read(model):
    data = Counted()
    source = open_feed(data, Subject(model=model, name="own"))
    data.read.clear()
    shares = [[image for _, batch, _ in source.dealt(3, 15, 0, Team(rank, 2)) for image in batch] for rank in range(2)]
    assert [len(share) for share in shares] == [9, 6]
    assert len(data.read) == len(set(data.read)) == 15
