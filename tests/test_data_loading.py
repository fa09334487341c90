"""Search order, downloads, the fallback and the errors of finding a data set."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from making import cifar10_files, cifar100_files, pixels, write_archive, write_fashion

from svda_analysis.data import DATASETS, load_dataset
from svda_analysis.data.catalog import DatasetSpec, register_dataset
from svda_analysis.data.readers import in_memory
from svda_analysis.errors import InputError

pytestmark = pytest.mark.usefixtures("bare_machine")


def test_search_order_is_root_environment_package_cache(tmp_path, monkeypatch):
    places = [tmp_path / "root", tmp_path / "environment", tmp_path / "package", Path("~/.cache/svda_analysis")]
    for count, place in enumerate(places, 10):
        write_fashion(place.expanduser(), count)
    monkeypatch.setenv("SVDA_DATA", str(places[1]))
    spec = dataclasses.replace(DATASETS["fashion_mnist"], usual_folders=(str(places[2]),))
    monkeypatch.setitem(DATASETS, "fashion_mnist", spec)
    for count, place in enumerate(places, 10):
        data = load_dataset("fashion_mnist", root=places[0])
        assert len(data) == count
        assert str(place.expanduser()) in data.source
        for file in place.expanduser().iterdir():
            file.unlink()
    with pytest.raises(InputError, match="download of FashionMNIST failed"):
        load_dataset("fashion_mnist", root=places[0])


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100"])
def test_failed_download_says_how_to_get_the_data(name):
    with pytest.raises(InputError) as caught:
        load_dataset(name)
    message = str(caught.value)
    assert "no network" in message
    assert DATASETS[name].how_to_get in message
    assert "\n" not in message


@pytest.mark.parametrize("error", [RuntimeError("File not found or corrupted."), OSError("disk full")])
def test_other_download_failures_are_input_errors_too(monkeypatch, tmp_path, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    with pytest.raises(InputError, match=str(error)):
        load_dataset("cifar10", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100"])
def test_download_lands_in_root_and_is_read_from_there(monkeypatch, tmp_path, name):
    source = tmp_path / "server"
    if name == "fashion_mnist":
        write_fashion(source)
        write_fashion(source, part="train")
    else:
        files, _ = cifar10_files() if name == "cifar10" else cifar100_files()
        write_archive(source / f"{name.replace('cifar', 'cifar-')}-python.tar.gz", files)
    fetched = []

    def copy(url, root, filename, md5):
        assert len(md5) == 32
        fetched.append(url)
        (Path(root) / filename).write_bytes((source / filename).read_bytes())

    monkeypatch.setattr("torchvision.datasets.utils.download_url", copy)
    first, second = (load_dataset(name, root=tmp_path / "root", train=True) for _ in range(2))
    assert first.source == second.source
    assert str(tmp_path / "root") in first.source
    assert len(fetched) == (4 if name == "fashion_mnist" else 1)  # the second time it is there


def test_download_can_be_forbidden(monkeypatch):
    monkeypatch.setattr("torchvision.datasets.utils.download_url", lambda *_, **__: pytest.fail("it tried"))
    with pytest.raises(InputError, match="FashionMNIST was not found; apt-get install dataset-fashion-mnist"):
        load_dataset("fashion_mnist", allow_download=False)
    with pytest.raises(InputError, match="ImageNet-100 was not found; pass --data-root DIR"):
        load_dataset("imagenet100")


def test_sample_takes_the_place_of_missing_fashion_mnist_with_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr("torchvision.datasets.utils.download_url", lambda *_, **__: pytest.fail("it tried"))
    data = load_dataset("fashion_mnist", sample_fallback=True)
    assert data.is_sample
    assert data.name == "sample"
    assert "bundled sample" in data.warning
    assert DATASETS["fashion_mnist"].how_to_get in data.warning
    write_fashion(tmp_path)
    assert not load_dataset("fashion_mnist", root=tmp_path, sample_fallback=True).is_sample
    with pytest.raises(InputError, match="CIFAR-10 was not found"):
        load_dataset("cifar10", sample_fallback=True, allow_download=False)


@pytest.mark.parametrize(
    ("name", "hint"), [("FashionMNIST", "fashion_mnist"), ("cifar-10", "cifar10"), ("imagenet", "imagenet100")]
)
def test_unknown_name_lists_the_names_and_the_nearest(name, hint):
    with pytest.raises(InputError, match=f"did you mean {hint}\\?") as caught:
        load_dataset(name)
    assert all(each in str(caught.value) for each in DATASETS)


@pytest.mark.parametrize("name", ["", "zzz", "cifar10:/data"])
def test_other_unknown_names_are_refused(name):
    with pytest.raises(InputError, match="the data set must be one of fashion_mnist, cifar10"):
        load_dataset(name)


def test_size_of_the_model_must_be_the_size_of_the_images():
    with pytest.raises(InputError, match=r"cifar10 images are 32 x 32, the model takes 28 x 28"):
        load_dataset("cifar10", image_size=28)
    assert load_dataset("sample", image_size=28).image_size == 28
    with pytest.raises(InputError, match="image_size must be at least 1, got 0"):
        load_dataset("imagefolder:.", image_size=0)


def test_unreadable_file_is_an_input_error(tmp_path, monkeypatch):
    write_fashion(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"

    def deny(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(InputError, match=f"{path} cannot be read: Permission denied"):
        load_dataset("fashion_mnist", root=tmp_path)


def test_a_data_set_registered_at_run_time_is_opened_by_its_name(tmp_path):
    def find(spec, folder, train, size):
        return in_memory(spec, pixels(3, 1, 4, 4), np.arange(3), train, folder)

    spec = DatasetSpec(
        name="dots",
        title="Dots",
        channels=1,
        image_size=4,
        classes=("a", "b", "c"),
        mean=(0.5,),
        std=(0.5,),
        how_to_get="draw them",
        find=find,
    )
    register_dataset(spec)
    try:
        data = load_dataset("dots", root=tmp_path)
    finally:
        del DATASETS["dots"]
    assert data.source == f"Dots test, 3 images from {tmp_path}"
    assert data.labels.tolist() == [0, 1, 2]
