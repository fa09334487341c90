"""Labelled images: :func:`load_dataset` finds a data set, checks its files and hands out normalised batches.

Adding a data set is one entry in :data:`DATASETS`. Small images live in memory as uint8 and are augmented a batch at a
time; folders of photographs are read and cropped image by image. Random choices come from the caller's generator alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import gzip
import io
import math
import os
import pickle
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from svda_analysis.errors import DataNotFoundError, InputError

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif")
_LARGEST_IDX, _LARGEST_BATCH = 2**26, 2**28  # bytes, unpacked; the original files have at most 47 and 155 million
_BUNDLED = resources.files("svda_analysis") / "sample"


# --- what a data set offers -----------------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False, kw_only=True)
class ImageData(Dataset[tuple[Tensor, int]]):
    """Labelled images of one split, as a torch data set: ``data[i]`` is ``(C, H, W) float32``, normalised, and an int.

    ``name`` opens it again with :func:`load_dataset`; ``source`` says in one line what was read from where;
    ``labels (n,) int64``; ``mean`` and ``std`` are per channel, of pixels in [0, 1]; ``warning`` is one line or None.
    ``padding`` (pixels; in memory only) and ``flip`` say how training images are augmented.
    """

    name: str
    split: str
    source: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int
    image_size: int
    labels: Tensor
    padding: int = 0
    flip: bool = True
    is_sample: bool = False
    warning: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(self.raw([index])).permute(0, 3, 1, 2)
        return self.normalise(pixels)[0], int(self.labels[index])

    def normalise(self, pixels: Tensor) -> Tensor:
        """``(pixels / 255 - mean) / std`` per channel: ``(B, C, H, W) uint8`` in, float32 of that shape out."""
        mean, std = (255 * torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return pixels.to(torch.float32, memory_format=torch.contiguous_format).sub_(mean).div_(std)

    def examples(self, number: int) -> Tensor:
        """Indices of the images to show: the first of each class, in their order, at most ``number`` of them."""
        _, firsts = np.unique(self.labels.numpy(), return_index=True)
        return torch.from_numpy(np.sort(firsts)[:number])

    def raw(self, indices: Sequence[int] | Tensor) -> np.ndarray:
        """The images to show: ``(n, H, W, C) uint8``, resized and cropped as for testing, not normalised."""
        raise NotImplementedError

    def batches(
        self,
        batch_size: int,
        *,
        indices: Tensor | None = None,
        augment: bool = False,
        generator: torch.Generator | None = None,
        workers: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images ``(B, C, H, W) float32`` and labels ``(B,) int64``; the last batch may be smaller.

        ``indices (n,) int64`` gives the images in their order (default: all, in file order). ``augment`` crops and
        mirrors at random, drawn from ``generator`` (CPU; default: torch's own): the same generator state and indices
        give the same batches bit for bit, with any number of ``workers`` (processes that read folders, by default one
        for each core up to 8; images in memory need none).
        """
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        if workers is None:
            workers = min(os.cpu_count() or 1, 8)
        if workers < 0:
            raise InputError(f"workers must be at least 0, got {workers}")
        chosen = torch.arange(len(self)) if indices is None else self._check(indices)
        return self._batches(chosen, batch_size, augment, generator, workers)

    def _batches(
        self, indices: Tensor, batch_size: int, augment: bool, generator: torch.Generator | None, workers: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        raise NotImplementedError

    def _check(self, indices: Sequence[int] | Tensor) -> Tensor:
        chosen = torch.as_tensor(indices)
        whole = chosen.dtype in (torch.int64, torch.int32) and chosen.ndim == 1
        if chosen.shape != (0,) and not (whole and 0 <= chosen.min() <= chosen.max() < len(self)):
            got = f"{chosen.min()} to {chosen.max()}" if whole else f"{chosen.dtype} of shape {tuple(chosen.shape)}"
            raise InputError(f"indices must be a row of whole numbers from 0 to {len(self) - 1}, got {got}")
        return chosen.long()


@dataclasses.dataclass(eq=False, kw_only=True)
class MemoryImages(ImageData):
    """Images in memory, ``images (n, C, H, W) uint8``."""

    images: Tensor

    def raw(self, indices: Sequence[int] | Tensor) -> np.ndarray:
        return self.images[self._check(indices)].permute(0, 2, 3, 1).contiguous().numpy()

    def _batches(
        self, indices: Tensor, batch_size: int, augment: bool, generator: torch.Generator | None, workers: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in indices.split(batch_size) if len(indices) else ():
            images = self.images[chosen]
            if augment:
                images = crop_and_flip(images, self.padding, self.flip, generator)
            yield self.normalise(images), self.labels[chosen]


def crop_and_flip(images: Tensor, padding: int, flip: bool, generator: torch.Generator | None = None) -> Tensor:
    """Crop each image at random out of itself with ``padding`` zero pixels around, then mirror it with chance 1/2.

    ``images (B, C, H, W)`` of any dtype; returns that shape. Draws the tops and lefts ``(2, B)``, then the flips.
    """
    B, _, H, W = images.shape
    top, left = torch.randint(2 * padding + 1, (2, B), generator=generator)
    windows = F.pad(images, (padding,) * 4).unfold(2, H, 1).unfold(3, W, 1)  # (B, C, 2p+1, 2p+1, H, W), a view
    crops = windows[torch.arange(B), :, top, left]  # (B, C, H, W)
    if not flip:
        return crops
    mirrored = torch.rand(B, generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], crops.flip(-1), crops)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a model wants image files: the shorter side is brought to ``resize`` pixels, the middle ``image_size`` x
    ``image_size`` is cut out, and ``(pixel / 255 - mean) / std`` taken per channel."""

    image_size: int
    resize: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __str__(self) -> str:
        size = f"{self.image_size} x {self.image_size} from a shorter side of {self.resize} ({self.interpolation})"
        return f"{size}, mean {self.mean}, std {self.std}"


@dataclasses.dataclass(eq=False, kw_only=True)
class FolderImages(ImageData):
    """Image files, read when they are asked for and brought to ``image_size`` (Inception crops for training).

    For testing, the shorter side is brought to ``resize`` pixels first (0: 256/224 of ``image_size``).
    """

    paths: Sequence[str]
    resize: int = 0
    interpolation: str = "bilinear"

    def raw(self, indices: Sequence[int] | Tensor) -> np.ndarray:
        pixels, _ = _BatchReader(self, augment=False).read([(i, 0) for i in self._check(indices).tolist()])
        return pixels.permute(0, 2, 3, 1).contiguous().numpy()

    def _batches(
        self, indices: Tensor, batch_size: int, augment: bool, generator: torch.Generator | None, workers: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        seeds = torch.randint(2**62, indices.shape, generator=generator) if augment else torch.zeros_like(indices)
        todo = list(zip(indices.tolist(), seeds.tolist(), strict=True))
        jobs = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
        loader = DataLoader(
            _BatchReader(self, augment),
            batch_size=None,  # the reader makes whole batches
            sampler=jobs,  # any iterable will do
            num_workers=workers,
            generator=torch.Generator(),  # else it draws from torch's own, which is the caller's
        )
        for batch in loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch


class _BatchReader(Dataset[Any]):
    """Reads one batch, given as ``[(index, seed), ...]``, maybe in another process."""

    def __init__(self, data: FolderImages, augment: bool) -> None:
        from torchvision.transforms import v2

        size, self.data, self.augment = data.image_size, data, augment
        mode = v2.InterpolationMode(data.interpolation)
        test = [v2.Resize(data.resize or round(size * 256 / 224), interpolation=mode), v2.CenterCrop(size)]
        train = [v2.RandomResizedCrop(size), *([v2.RandomHorizontalFlip()] if data.flip else [])]
        self.transform = v2.Compose([*(train if augment else test), v2.PILToTensor()])

    def __getitem__(self, job: list[tuple[int, int]]) -> tuple[Tensor, Tensor] | InputError:
        try:
            pixels, labels = self.read(job)
        except InputError as error:  # raised here, a DataLoader would bury it in a traceback of many lines
            return error
        return self.data.normalise(pixels), labels

    def read(self, job: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Pixels ``(B, 3, H, W) uint8`` and labels ``(B,)``."""
        pixels = torch.stack([self._one(index, seed) for index, seed in job])
        return pixels, self.data.labels[[index for index, _ in job]]

    def _one(self, index: int, seed: int) -> Tensor:
        image = open_image(self.data.paths[index])
        with torch.random.fork_rng(devices=[]):  # the transforms draw from torch's own generator
            if self.augment:
                torch.default_generator.manual_seed(seed)
            return self.transform(image)


# --- finding and opening --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One data set: what it is, how training images are augmented, and how to find it.

    ``find(spec, folder, train, image_size)`` returns the data if it is in the folder, None if it is not there, and
    raises :class:`InputError` if it is there but broken. ``image_size`` is every image's size, or where
    ``fixed_size`` is false the default crop. ``download(folder)`` puts the original files into a folder.
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
    find: Callable[[DatasetSpec, Path, bool, int], ImageData | None]
    download: Callable[[Path], None] | None = None
    usual_folders: tuple[str, ...] = ()


def load_dataset(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    train: bool = False,
    image_size: int | None = None,
    allow_download: bool = True,
    sample_fallback: bool = False,
) -> ImageData:
    """Open a data set of :data:`DATASETS`, or any folder of class folders as ``imagefolder:DIR``.

    Looks in ``root``, in ``$SVDA_DATA``, where the data set's Debian package puts it, then in
    ``~/.cache/svda_analysis``; downloads into the first of root, ``$SVDA_DATA`` and the cache if ``allow_download``.
    With ``sample_fallback``, FashionMNIST is never downloaded: where it is not found the bundled sample takes its
    place, with ``is_sample`` and a ``warning``. ``image_size`` is the size that the model takes.
    Raises :class:`InputError` with one line to act on: unknown name, nothing found, a broken file, another size.
    """
    spec, folder = _spec(name)
    size = spec.image_size if image_size is None else image_size
    if size < 1:
        raise InputError(f"image_size must be at least 1, got {size}")
    if spec.fixed_size and size != spec.image_size:
        own = f"{spec.image_size} x {spec.image_size}"
        raise InputError(f"{name} images are {own}, the model takes {size} x {size}")
    fallback = sample_fallback and name == "fashion_mnist"
    try:
        data = _search(spec, folder or root, train, size, allow_download and not fallback)
    except OSError as error:
        raise InputError(f"{error.filename or spec.title} cannot be read: {error.strerror or error}") from None
    if data is None and fallback:
        data = _find_sample(DATASETS["sample"], Path(), train, size)
        data.warning = f"FashionMNIST was not found, so this is the bundled sample of it; {spec.how_to_get}"
    if data is None:
        raise DataNotFoundError(f"{spec.title} was not found; {spec.how_to_get}")
    return data


def _spec(name: str) -> tuple[DatasetSpec, str]:
    base, _, folder = name.partition(":")
    if base not in DATASETS or (folder and base != "imagefolder"):
        near = difflib.get_close_matches(name.lower(), DATASETS, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        names = ["imagefolder:DIR" if each == "imagefolder" else each for each in DATASETS]
        raise InputError(f"the data set must be one of {', '.join(names)}, got {name!r}{hint}")
    return DATASETS[base], folder


def _search(
    spec: DatasetSpec, root: str | os.PathLike[str] | None, train: bool, size: int, download: bool
) -> ImageData | None:
    if spec.name == "imagefolder":
        if root is None:
            raise InputError("imagefolder needs a folder: imagefolder:DIR")
        return spec.find(spec, _path(root), train, size)
    own = [_path(place) for place in (root, os.environ.get("SVDA_DATA"), "~/.cache/svda_analysis") if place]
    for place in [*own[:-1], *map(Path, spec.usual_folders), own[-1]]:
        if data := spec.find(spec, place, train, size):
            return data
    if not download or spec.download is None:
        return None
    try:
        spec.download(own[0])
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise InputError(f"the download of {spec.title} failed ({_one_line(error)}); {spec.how_to_get}") from None
    return spec.find(spec, own[0], train, size)


def _path(place: str | os.PathLike[str]) -> Path:
    return Path(os.path.expanduser(place))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _describe(title: str, split: str, count: int, place: object) -> str:
    number = f"{count:,}".replace(",", " ")
    return f"{title} {split}, {number} images from {place}"


def _in_memory(
    spec: DatasetSpec, pixels: np.ndarray, labels: np.ndarray, train: bool, place: object, title: str = ""
) -> MemoryImages:
    split = "train" if train else "test"
    return MemoryImages(
        name=spec.name,
        split=split,
        source=_describe(title or spec.title, split, len(labels), place),
        classes=spec.classes or (),
        mean=spec.mean,
        std=spec.std,
        channels=spec.channels,
        image_size=spec.image_size,
        labels=torch.from_numpy(labels.astype(np.int64)),
        padding=spec.padding,
        flip=spec.flip,
        images=torch.from_numpy(np.array(pixels, order="C")),  # a copy that may be written to
    )


# --- FashionMNIST: idx files, and the bundled sample ----------------------------------------------------------------


def _find_fashion_mnist(spec: DatasetSpec, folder: Path, train: bool, size: int) -> ImageData | None:
    part = "train" if train else "t10k"
    for place in (folder, folder / spec.name, folder / "fashion-mnist", folder / "FashionMNIST" / "raw"):
        images, labels = _either(place / f"{part}-images-idx3-ubyte"), _either(place / f"{part}-labels-idx1-ubyte")
        if images is None and labels is None:
            continue
        if images is None or labels is None:
            missing = f"{part}-images-idx3-ubyte" if images is None else f"{part}-labels-idx1-ubyte"
            raise InputError(f"{place / missing}.gz is missing beside {(images or labels).name}")  # type: ignore[union-attr]
        pixels, targets = _read_idx(images, 3), _read_idx(labels, 1)
        if not len(pixels) or pixels.shape[1:] != (28, 28):
            raise InputError(f"{images} must hold images of 28 x 28, got {' x '.join(map(str, pixels.shape))}")
        _check_labels(targets, len(pixels), 10, labels)
        return _in_memory(spec, pixels[:, None], targets, train, place)
    return None


def _either(path: Path) -> Path | None:
    packed = path.with_name(path.name + ".gz")
    return packed if packed.is_file() else path if path.is_file() else None


def _read_idx(path: Path, dims: int) -> np.ndarray:
    """Read the bytes of an idx file (LeCun's MNIST format: magic 0 0 8 dims, big-endian sizes, the data)."""
    with path.open("rb") as raw:
        try:
            data = (gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw).read(_LARGEST_IDX)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} is not a whole gzip file: {_one_line(error)}") from None
    start = 4 + 4 * dims
    if len(data) < start or data[:4] != bytes([0, 0, 8, dims]):
        raise InputError(f"{path} is not an idx file of bytes in {dims} dimensions")
    shape = np.frombuffer(data, ">u4", dims, 4).tolist()
    if len(data) - start != math.prod(shape):
        raise InputError(f"{path} should hold {math.prod(shape)} bytes of data, got {len(data) - start}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _check_labels(labels: np.ndarray, count: int, classes: int, where: object) -> None:
    if labels.shape != (count,) or not 0 <= labels.min() <= labels.max() < classes:
        raise InputError(f"{where} must hold {count} labels from 0 to {classes - 1}")


def _find_sample(spec: DatasetSpec, folder: Path, train: bool, size: int) -> MemoryImages:
    """The first 200 training and 100 test images of each class, in file order; the folder is not looked at."""
    split = "train" if train else "test"
    with (_BUNDLED / "fashion_mnist.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        data = _in_memory(spec, arrays[f"{split}_images"][:, None], arrays[f"{split}_labels"], train, "the package")
    data.is_sample = True
    return data


# --- CIFAR: pickled batches, as a folder or in the archive, read without running what they say ------------------------


class _Inert:
    """Stands in for numpy's array and dtype, so that nothing in a pickle is ever called."""

    state: Any = None

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


class _BatchUnpickler(pickle.Unpickler):
    """Reads plain containers and numpy arrays (as :class:`_Inert`); refuses any other class or function."""

    allowed = {  # noqa: RUF012  (a constant)
        (module, name)
        for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("ndarray", "dtype", "_reconstruct")
    }

    def find_class(self, module: str, name: str) -> type[_Inert]:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return _Inert


def _array_bytes(pickled: _Inert) -> np.ndarray:
    """The uint8 array that ``numpy.ndarray.__reduce__`` wrote."""
    _, shape, dtype, fortran, data = pickled.state
    if dtype.arguments[0] not in (b"u1", "u1"):
        raise ValueError("its data are not bytes")
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


def _read_batch(data: bytes, label_key: str, classes: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels ``(n, 3, 32, 32) uint8`` and labels ``(n,)`` of one pickled batch, the original Python 2 pickle."""
    try:
        batch = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
        fields = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        pixels, labels = _array_bytes(fields["data"]).reshape(-1, 3, 32, 32), np.asarray(fields[label_key], np.int64)
    except Exception as error:  # a broken pickle can fail in any way
        raise InputError(f"{where} is not an original CIFAR batch: {_one_line(error)}") from None
    if not len(pixels):
        raise InputError(f"{where} holds no images")
    _check_labels(labels, len(pixels), classes, where)
    return pixels, labels


def _find_cifar(spec: DatasetSpec, folder: Path, train: bool, size: int) -> ImageData | None:
    number = len(spec.classes or ())
    inner, archive = ("cifar-10-batches-py", "cifar-10") if number == 10 else ("cifar-100-python", "cifar-100")
    parts = ["train" if train else "test"]
    if number == 10:
        parts = [f"data_batch_{i}" for i in range(1, 6)] if train else ["test_batch"]
    for place in (folder, folder / spec.name):
        found = _unpacked(place / inner, parts) or _unpacked(place, parts)
        if found is None and (path := _first_file(place, place / f"{archive}-python.tar.gz")):
            found = _from_archive(path, inner, parts)
        if found:
            label_key = "labels" if number == 10 else "fine_labels"
            read = [_read_batch(data, label_key, number, where) for where, data in found.items()]
            pixels, labels = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
            return _in_memory(
                spec, pixels, labels, train, os.path.commonpath(os.path.dirname(where) for where in found)
            )
        if data := _cifar_from_images(spec, place / ("train" if train else "test"), train):
            return data
    return None


def _first_file(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _unpacked(folder: Path, parts: Sequence[str]) -> dict[str, bytes] | None:
    paths = [folder / part for part in parts]
    if not any(path.is_file() for path in paths):
        return None
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path} is missing")
    return {str(path): path.read_bytes() for path in paths}


def _from_archive(path: Path, inner: str, parts: Sequence[str]) -> dict[str, bytes]:
    wanted = {f"{inner}/{part}": b"" for part in parts}
    left = set(wanted)
    try:
        with tarfile.open(path, "r:gz") as archive:
            while left and (member := archive.next()):
                if (
                    (name := member.name.removeprefix("./")) in left
                    and member.isfile()
                    and member.size < _LARGEST_BATCH
                ):
                    wanted[name] = archive.extractfile(member).read()  # type: ignore[union-attr]  # it is a file
                    left.remove(name)
    except Exception as error:  # a broken archive can fail in any way
        raise InputError(f"{path} is not a whole tar.gz archive: {_one_line(error)}") from None
    if left:
        raise InputError(f"{path} lacks {', '.join(sorted(left))}")
    return {f"{path}/{Path(name).name}": data for name, data in wanted.items()}


def _cifar_from_images(spec: DatasetSpec, folder: Path, train: bool) -> ImageData | None:
    present = set(_class_folders(folder)) & set(spec.classes or ())
    if not present:
        return None
    if missing := sorted(set(spec.classes or ()) - present):
        raise InputError(f"{folder} lacks the classes {', '.join(missing)}")
    paths, labels = _list_images(folder, spec.classes or ())
    pixels = np.empty((len(paths), spec.image_size, spec.image_size, 3), np.uint8)

    def read(i: int) -> None:
        image = open_image(paths[i])
        if image.size != (spec.image_size, spec.image_size):
            raise InputError(
                f"{paths[i]} must be {spec.image_size} x {spec.image_size}, got {image.width} x {image.height}"
            )
        pixels[i] = np.asarray(image)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        for _ in pool.map(read, range(len(paths)), chunksize=1):
            pass
    jpeg = any(path.lower().endswith((".jpg", ".jpeg")) for path in paths)
    title = f"{spec.title} (JPEG re-encoding)" if jpeg else spec.title
    return _in_memory(spec, pixels.transpose(0, 3, 1, 2), labels, train, folder, title)


# --- folders of image files -----------------------------------------------------------------------------------------


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image in a file as 8-bit RGB; :class:`InputError` names a file that is broken or has deeper pixels."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode = image.mode
            deep = mode in ("I", "F") or mode.startswith("I;")
            rgb = None if deep else _without_palette(image).convert("RGB")
    except Exception as error:  # a broken image can fail in any way
        raise InputError(f"{path} is not a readable image: {_one_line(error)}") from None
    if rgb is None:
        raise InputError(f"{path} must have 8 bits a channel, got mode {mode}")
    if max(rgb.size) > 100 * min(rgb.size):  # resizing the short side would need gigabytes
        raise InputError(f"{path} is too narrow: {rgb.width} x {rgb.height}")
    return rgb


def _without_palette(image: Image.Image) -> Image.Image:
    return image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _image_files(folder: str) -> Iterator[str]:
    """Image files under a folder, sorted; hidden ones and links to folders are left out."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _image_files(entry.path)
        elif entry.name.lower().endswith(IMAGE_SUFFIXES) and (entry.is_file() or entry.is_symlink()):
            yield entry.path


def _list_images(folder: Path, classes: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Paths, and the number of each one's class; a class without a folder has no images."""
    found = [(path, label) for label, name in enumerate(classes) for path in _class_images(folder / name)]
    if not found:
        raise InputError(f"no images in {folder} (expected {folder}/<class>/*.jpg, *.png or the like)")
    return [path for path, _ in found], np.array([label for _, label in found])


def _class_images(folder: Path) -> Iterator[str]:
    return _image_files(str(folder)) if folder.is_dir() else iter(())


def _from_folder(
    spec: DatasetSpec, folder: Path, classes: Sequence[str], split: str, size: int, *, name: str = "", note: str = ""
) -> FolderImages:
    paths, labels = _list_images(folder, classes)
    return FolderImages(
        name=name or spec.name,
        split=split,
        source=_describe(spec.title, split, len(paths), folder) + note,
        classes=tuple(classes),
        mean=spec.mean,
        std=spec.std,
        channels=spec.channels,
        image_size=size,
        labels=torch.from_numpy(labels),
        flip=spec.flip,
        paths=paths,
    )


def _find_imagefolder(spec: DatasetSpec, folder: Path, train: bool, size: int) -> ImageData:
    """``DIR/<class>/*``; or, where ``DIR/train``, ``test`` or ``val`` hold class folders, the one asked for."""
    if not folder.is_dir():
        raise DataNotFoundError(f"{folder} is not a folder")
    splits = [split for split in ("train", "test", "val") if _class_folders(folder / split)]
    wanted = [split for split in splits if (split == "train") == train]
    if splits and not wanted:
        raise InputError(f"{folder} has {', '.join(splits)}, but no {'train' if train else 'test or val'} folder")
    place, split = (folder / wanted[0], wanted[0]) if splits else (folder, "all")
    classes = _class_folders(folder / splits[0]) if splits else _class_folders(folder)  # train's numbering, for all
    if strangers := sorted(set(_class_folders(place)) - set(classes)):
        raise InputError(f"{place} has classes that {folder / splits[0]} lacks: {', '.join(strangers[:5])}")
    return _from_folder(spec, place, classes, split, size, name=f"imagefolder:{folder}")


def _find_imagenet100(spec: DatasetSpec, folder: Path, train: bool, size: int) -> ImageData | None:
    classes, split = spec.classes or (), "train" if train else "val"
    for place in (folder / split, folder / spec.name / split, folder / "imagenet" / split):
        present = set(_class_folders(place)) & set(classes)
        if not present:
            continue
        missing = sorted(set(classes) - present)
        if train and missing:
            raise InputError(f"{place} lacks {len(missing)} of the 100 classes: {', '.join(missing[:5])} ...")
        note = f" ({len(present)} of the 100 classes are there)" if missing else ""
        return _from_folder(spec, place, classes, split, size, note=note)
    return None


# --- downloads: torchvision's, with its progress bar and checksums ----------------------------------------------------


def _fetch(folder: Path, files: Sequence[tuple[str, str, str]]) -> None:
    """Fetch ``(url, file name, md5)`` into a folder; they appear there once all are whole."""
    from torchvision.datasets import utils

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        names = [filename for _, filename, _ in files]
        for url, filename, md5 in files:
            utils.download_url(url, unfinished, filename, md5)
        for filename in names:
            os.replace(Path(unfinished) / filename, folder / filename)


def _download_fashion_mnist(folder: Path) -> None:
    from torchvision.datasets import FashionMNIST

    files = [(FashionMNIST.mirrors[0] + file, file, md5) for file, md5 in FashionMNIST.resources]
    _fetch(folder / "FashionMNIST" / "raw", files)


def _download_cifar10(folder: Path) -> None:
    from torchvision.datasets import CIFAR10

    _fetch(folder, [(CIFAR10.url, CIFAR10.filename, CIFAR10.tgz_md5)])


def _download_cifar100(folder: Path) -> None:
    from torchvision.datasets import CIFAR100

    _fetch(folder, [(CIFAR100.url, CIFAR100.filename, CIFAR100.tgz_md5)])


# --- the data sets --------------------------------------------------------------------------------------------------

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
            find=_find_fashion_mnist,
            download=_download_fashion_mnist,
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
            find=_find_cifar,
            download=_download_cifar10,
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
            find=_find_cifar,
            download=_download_cifar100,
        ),
        DatasetSpec(
            name="imagenet100",
            title="ImageNet-100",
            fixed_size=False,
            classes=tuple(sorted((_BUNDLED / "imagenet100.txt").read_text(encoding="utf-8").split())),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            how_to_get="pass --data-root DIR with ImageNet as DIR/train/<WordNet id> and DIR/val/<WordNet id>",
            find=_find_imagenet100,
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
            find=_find_sample,
        ),
        DatasetSpec(
            name="imagefolder",
            title="image folder",
            fixed_size=False,
            classes=None,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            how_to_get="imagefolder:DIR, with the images as DIR/<class>/*.jpg",
            find=_find_imagefolder,
        ),
    )
}
