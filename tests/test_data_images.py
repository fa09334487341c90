"""Batches, augmentation, images from memory and from files."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from making import cifar10_files, pixels, write_files, write_folder
from PIL import Image

from svda_analysis.data import crop_and_flip, load_dataset
from svda_analysis.data.images import rotate
from svda_analysis.errors import InputError

pytestmark = pytest.mark.usefixtures("bare_machine")


@pytest.fixture(scope="module")
def sample():
    return load_dataset("sample")


def test_batches_keep_order_and_the_ragged_last_one(sample):
    indices = torch.tensor([5, 3, 3, 900, 0, 7, 1])
    read = list(sample.batches(3, indices=indices))
    assert [len(images) for images, _ in read] == [3, 3, 1]
    images, labels = (torch.cat(parts) for parts in zip(*read, strict=True))
    assert (images.dtype, labels.dtype, images.shape) == (torch.float32, torch.int64, (7, 1, 28, 28))
    expected = (sample.images[indices].double() / 255 - sample.mean[0]) / sample.std[0]
    torch.testing.assert_close(images.double(), expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(labels, sample.labels[indices])
    one, label = sample[900]
    assert torch.equal(one, images[3])
    assert label == labels[3]


def test_batches_without_indices_are_everything_in_file_order(sample):
    read = list(sample.batches(64))
    assert [len(labels) for _, labels in read] == [64] * 15 + [40]
    assert torch.equal(torch.cat([labels for _, labels in read]), sample.labels)
    assert list(sample.batches(4, indices=torch.tensor([], dtype=torch.int64))) == []


def test_reading_never_changes_the_stored_images(sample):
    before = sample.images.clone()
    for images, _ in sample.batches(100, augment=True):
        images.zero_()
    sample.raw([0])[:] = 0
    assert torch.equal(sample.images, before)


def test_three_channels_are_normalised_each_with_its_own(tmp_path):
    write_files(tmp_path, cifar10_files()[0])
    data = load_dataset("cifar10", root=tmp_path)
    images, _ = next(data.batches(4))
    for channel in range(3):
        expected = (data.images[:, channel].double() / 255 - data.mean[channel]) / data.std[channel]
        torch.testing.assert_close(images[:, channel].double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("channels", "padding", "flip"), [(1, 2, True), (3, 1, False), (2, 0, True)])
def test_each_augmented_image_is_one_crop_of_its_padded_self(channels, padding, flip):
    images = torch.from_numpy(pixels(400, channels, 6, 6))
    draw = torch.Generator().manual_seed(0)
    corners = torch.randint(2 * padding + 1, (2, 400), generator=draw)
    mirrored = (torch.rand(400, generator=draw) < 0.5) & flip
    out = crop_and_flip(images, padding, corners, mirrored).numpy()
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    found = set()
    for image, original in zip(out, padded, strict=True):
        matches = {
            (top, left, step)
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            for step in ((1, -1) if flip else (1,))
            if np.array_equal(image, original[:, top : top + 6, left : left + 6][:, :, ::step])
        }
        assert len(matches) == 1
        found |= matches
    assert len(found) == (2 * padding + 1) ** 2 * (1 + flip)  # every crop comes up


def test_augmentation_is_drawn_from_the_generator_alone(sample):
    def read(seed):
        generator = torch.Generator().manual_seed(seed)
        pairs = sample.batches(64, indices=torch.arange(150), augment=True, generator=generator)
        return torch.cat([images for images, _ in pairs])

    state = torch.get_rng_state()
    first = read(1)
    torch.rand(5)
    assert torch.equal(first, read(1))
    assert not torch.equal(first, read(2))
    torch.set_rng_state(state)
    read(1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # DataLoader's own, from Python 3.12
@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_how_an_image_is_augmented_depends_on_no_other(kind, sample, tmp_path):
    """The same state of the generator gives an image the same crop in any batch, in any order, with any others."""
    data = sample if kind == "memory" else load_dataset(f"imagefolder:{write_folder(tmp_path)}", image_size=24)

    def read(batch_size, indices):
        draw = torch.Generator().manual_seed(3)
        pairs = data.batches(batch_size, indices=torch.tensor(indices), augment=True, generator=draw, workers=0)
        return dict(zip(indices, torch.cat([images for images, _ in pairs]), strict=True))

    whole = read(4, [3, 1, 7, 0, 5, 8])
    for part in (read(1, [5, 3]), read(2, [8, 0, 7])):
        assert all(torch.equal(image, whole[index]) for index, image in part.items())
    plain = torch.cat([images for images, _ in data.batches(9, indices=torch.tensor([3, 1, 7, 0, 5, 8]), workers=0)])
    assert not torch.equal(torch.stack(list(whole.values())), plain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 1, "workers": -1}, "workers must be at least 0, got -1"),
        ({"batch_size": 1, "indices": torch.tensor([0, 1000])}, "from 0 to 999, got 0 to 1000"),
        ({"batch_size": 1, "indices": torch.tensor([-1])}, "from 0 to 999, got -1 to -1"),
        ({"batch_size": 1, "indices": torch.tensor([0.5])}, r"got torch.float32 of shape \(1,\)"),
        ({"batch_size": 1, "indices": torch.ones(1000, dtype=torch.bool)}, "got torch.bool"),
        ({"batch_size": 1, "indices": torch.tensor(3)}, r"got torch.int64 of shape \(\)"),
    ],
)
def test_wrong_arguments_are_refused_at_once(sample, arguments, message):
    with pytest.raises(InputError, match=message):
        sample.batches(**arguments)


def test_folder_images_are_resized_and_cropped_for_testing(tmp_path):
    write_folder(tmp_path)
    data = load_dataset(f"imagefolder:{tmp_path}", image_size=28)
    for index, path in enumerate(data.paths):
        image = Image.open(path)
        short = min(image.size)
        image = image.resize([int(32 * side / short) for side in image.size], Image.Resampling.BILINEAR)  # 28 * 8 / 7
        left, top = round((image.width - 28) / 2), round((image.height - 28) / 2)
        expected = np.asarray(image.crop((left, top, left + 28, top + 28)))
        np.testing.assert_array_equal(data.raw([index])[0], expected)
        pixel = (expected.transpose(2, 0, 1) / 255 - np.array(data.mean)[:, None, None]) / np.array(data.std)[
            :, None, None
        ]
        np.testing.assert_allclose(data[index][0], pixel, atol=1e-5)
    images, labels = next(data.batches(len(data)))
    assert torch.equal(images, torch.stack([data[i][0] for i in range(len(data))]))
    assert torch.equal(labels, data.labels)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # DataLoader's own, from Python 3.12
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # said on a single core
def test_folder_augmentation_is_the_same_with_any_number_of_workers(tmp_path):
    data = load_dataset(f"imagefolder:{write_folder(tmp_path)}", image_size=24)
    indices = torch.tensor([4, 4, 0, 8, 1, 2, 3])

    def read(workers, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return list(data.batches(3, indices=indices, augment=True, generator=generator, workers=workers))

    state = torch.get_rng_state()
    alone, with_two = read(0), read(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(labels) for _, labels in alone] == [3, 3, 1]
    for (images, labels), (others, other_labels) in zip(alone, with_two, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)
    assert torch.equal(torch.cat([labels for _, labels in alone]), data.labels[indices])
    assert torch.equal(alone[0][0][0], alone[0][0][1])  # the image decides, not its place
    assert not torch.equal(alone[0][0], read(0, seed=1)[0][0])


def test_a_single_batch_of_a_folder_starts_no_process(tmp_path, monkeypatch):
    data, asked = load_dataset(f"imagefolder:{write_folder(tmp_path)}", image_size=24), []

    class Loader(torch.utils.data.DataLoader):
        def __init__(self, *given, num_workers, **options):
            asked.append(num_workers)
            super().__init__(*given, num_workers=0, **options)

    monkeypatch.setattr("svda_analysis.data.images.DataLoader", Loader)
    for batch_size, batches in ((len(data), 1), (len(data) - 1, 2), (1, len(data))):
        assert len(list(data.batches(batch_size, workers=4))) == batches
    assert asked == [0, 2, 4]


def test_images_are_turned_about_their_middle():
    images = torch.arange(2 * 3 * 5 * 5, dtype=torch.uint8).view(2, 3, 5, 5)
    assert torch.equal(rotate(images, torch.zeros(2)), images)
    quarter = rotate(images, torch.tensor([90.0, -90.0]))
    assert torch.equal(quarter[0], images[0].rot90(1, (-2, -1)))
    assert torch.equal(quarter[1], images[1].rot90(-1, (-2, -1)))
    wide = torch.zeros(1, 1, 3, 9, dtype=torch.uint8)
    wide[..., 1, :] = 7
    assert torch.equal(rotate(wide, torch.tensor([180.0])), wide)
    assert rotate(wide, torch.tensor([90.0]))[0, 0, :, 4].tolist() == [
        7,
        7,
        7,
    ]  # square pixels: the line stands upright
    assert rotate(wide, torch.tensor([90.0])).sum() == 21


def test_rotation_follows_from_the_image_and_changes_no_other_draw(sample):
    chosen = torch.arange(40)

    def drawn(data, indices):
        generator = torch.Generator().manual_seed(3)
        return torch.cat([x for x, _ in data.batches(8, indices=indices, augment=True, generator=generator)])

    turned = dataclasses.replace(sample, rotation=15.0)
    assert torch.equal(drawn(turned, chosen)[10:20], drawn(turned, chosen[10:20]))
    assert not torch.equal(drawn(turned, chosen), drawn(sample, chosen))
    still = dataclasses.replace(sample, rotation=1e-6)
    assert torch.equal(drawn(still, chosen), drawn(sample, chosen))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system keeps no process on fewer cores")
def test_a_process_on_one_core_takes_one_more_to_read_a_folder(tmp_path):
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from svda_analysis.data import load_dataset\n"
        f"data = load_dataset('imagefolder:{write_folder(tmp_path)}', image_size=24)\n"
        "print(sum(len(labels) for _, labels in data.batches(4)), len(data))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr == ""  # torch warns of more workers than cores
    assert len(set(ran.stdout.split())) == 1
