"""The data sets: adding one is one entry in :data:`DATASETS`, or a call of :func:`register_dataset`. Needs no torch."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from svda_analysis.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, ImageSize
from svda_analysis.errors import InputError

if TYPE_CHECKING:
    from svda_analysis.data.images import ImageData

Find: TypeAlias = "Callable[[DatasetSpec, Path, bool, Any], ImageData | None]"
Download: TypeAlias = Callable[[Path], None]

BUNDLED = resources.files("svda_analysis") / "sample"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One data set: what it is, how training images are augmented, and how to find it.

    ``find(spec, folder, train, image_size)`` returns the data if it is in the folder, None if it is not there, and
    raises :class:`InputError` if it is there but broken. ``image_size`` is every image's size, or where
    ``fixed_size`` is false the default crop. ``download(folder)`` puts the original files into a folder.
    Both may be named, as ``"module:function"``, which is imported when it is used.
    """

    name: str
    title: str
    channels: int = 3
    image_size: int = 224
    fixed_size: bool = True
    classes: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    how_to_get: str
    padding: int = 0
    flip: bool = True
    find: Find | str
    download: Download | str | None = None
    usual_folders: tuple[str, ...] = ()

    def look_in(self, folder: Path, train: bool, image_size: ImageSize) -> ImageData | None:
        """The data if they are in the folder, else None."""
        find: Find = _resolved(self.find) if isinstance(self.find, str) else self.find
        return find(self, folder, train, image_size)

    def fetch_into(self, folder: Path) -> None:
        """Download the original files into a folder."""
        if self.download is None:
            raise InputError(f"{self.title} cannot be downloaded; {self.how_to_get}")
        download: Download = _resolved(self.download) if isinstance(self.download, str) else self.download
        download(folder)


def _resolved(name: str) -> Any:
    """The function that ``"module:function"`` names."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


_FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel
streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm"""

DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            name="fashion_mnist",
            title="FashionMNIST",
            channels=1,
            image_size=28,
            classes=tuple(_FASHION.split(",")),
            mean=(0.2860,),
            std=(0.3530,),
            how_to_get="apt-get install dataset-fashion-mnist, or pass --data-root DIR with its four idx .gz files",
            find="svda_analysis.data.fashion_mnist:find_fashion_mnist",
            download="svda_analysis.data.fashion_mnist:download_fashion_mnist",
            usual_folders=("/usr/share/datasets/fashion-mnist",),
        ),
        DatasetSpec(
            name="cifar10",
            title="CIFAR-10",
            image_size=32,
            classes=tuple(_CIFAR10.split()),
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            how_to_get="pass --data-root DIR with cifar-10-python.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html)",
            padding=4,
            find="svda_analysis.data.cifar:find_cifar",
            download="svda_analysis.data.cifar:download_cifar10",
        ),
        DatasetSpec(
            name="cifar100",
            title="CIFAR-100",
            image_size=32,
            classes=tuple(_CIFAR100.split()),
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
            how_to_get="pass --data-root DIR with cifar-100-python.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html)",
            padding=4,
            find="svda_analysis.data.cifar:find_cifar",
            download="svda_analysis.data.cifar:download_cifar100",
        ),
        DatasetSpec(
            name="imagenet100",
            title="ImageNet-100",
            fixed_size=False,
            classes=tuple(sorted((BUNDLED / "imagenet100.txt").read_text(encoding="utf-8").split())),
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            how_to_get="pass --data-root DIR with ImageNet as DIR/train/<WordNet id> and DIR/val/<WordNet id>",
            find="svda_analysis.data.folders:find_imagenet100",
        ),
        DatasetSpec(
            name="sample",
            title="FashionMNIST sample",
            channels=1,
            image_size=28,
            classes=tuple(_FASHION.split(",")),
            mean=(0.2860,),
            std=(0.3530,),
            how_to_get="it comes with the package",
            find="svda_analysis.data.fashion_mnist:find_sample",
        ),
        DatasetSpec(
            name="imagefolder",
            title="image folder",
            fixed_size=False,
            classes=None,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            how_to_get="imagefolder:DIR, with the images as DIR/<class>/*.jpg",
            find="svda_analysis.data.folders:find_imagefolder",
        ),
        DatasetSpec(
            name="images",
            title="images",
            fixed_size=False,
            classes=(),
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            how_to_get="images:DIR or images:FILE, with no labels",
            find="svda_analysis.data.folders:find_images",
        ),
    )
}


OF_A_FOLDER = ("imagefolder", "images")  # what is named with its folder


def register_dataset(spec: DatasetSpec) -> None:
    """Let :func:`svda_analysis.data.load_dataset` open one more data set by its name."""
    if not spec.name or ":" in spec.name or spec.name in DATASETS:
        raise InputError(f"a data set's name must be a new one without a colon, got {spec.name!r}")
    DATASETS[spec.name] = spec


def dataset_names() -> list[str]:
    """What :func:`svda_analysis.data.load_dataset` takes, as a help text says it."""
    return [f"{name}:DIR" if name in OF_A_FOLDER else name for name in DATASETS]
