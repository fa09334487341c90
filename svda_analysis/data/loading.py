"""Finding and opening: :func:`load_dataset` finds a data set of the catalog, or downloads it."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from svda_analysis.data.catalog import DATASETS, OF_A_FOLDER, DatasetSpec, dataset_names
from svda_analysis.data.fashion_mnist import find_sample
from svda_analysis.data.folders import folder_of_splits
from svda_analysis.data.images import ImageData
from svda_analysis.data.preprocessing import ImageSize, in_pixels, sides
from svda_analysis.errors import DataNotFoundError, InputError, one_line


def load_dataset(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    train: bool = False,
    image_size: ImageSize | None = None,
    allow_download: bool = True,
    sample_fallback: bool = False,
) -> ImageData:
    """Open a data set of :data:`DATASETS`, or any folder of class folders as ``imagefolder:DIR``,
    or images without labels as ``images:DIR`` or ``images:FILE``.

    Looks in ``root``, in ``$SVDA_DATA``, where the data set's Debian package puts it, then in
    ``~/.cache/svda_analysis``; downloads into the first of root, ``$SVDA_DATA`` and the cache if ``allow_download``.
    With ``sample_fallback``, FashionMNIST is never downloaded: where it is not found the bundled sample takes its
    place, with ``is_sample`` and a ``warning``. ``image_size`` is the size that the model takes.
    Raises :class:`InputError` with one line to act on: unknown name, nothing found, a broken file, another size.
    """
    spec, folder = _spec(name)
    size = spec.image_size if image_size is None else image_size
    if min(sides(size)) < 1:
        raise InputError(f"image_size must be at least 1, got {size}")
    if spec.fixed_size and size != spec.image_size:
        raise InputError(f"{name} images are {in_pixels(spec.image_size)}, the model takes {in_pixels(size)}")
    fallback = sample_fallback and name == "fashion_mnist"
    try:
        data = _search(spec, folder or root, train, size, allow_download and not fallback)
    except OSError as error:
        raise InputError(f"{error.filename or spec.title} cannot be read: {error.strerror or error}") from None
    if data is None and fallback:
        data = find_sample(DATASETS["sample"], Path(), train, size)
        data.warning = f"FashionMNIST was not found, so this is the bundled sample of it; {spec.how_to_get}"
    if data is None:
        raise DataNotFoundError(f"{spec.title} was not found; {spec.how_to_get}")
    return data


def count_classes(name: str, *, root: str | os.PathLike[str] | None = None) -> int | None:
    """How many classes the training images of a data set lie in whose folders are its classes; None of any other, and
    where there are none. Raises :class:`InputError` as :func:`load_dataset`.
    """
    spec, _ = _spec(name)
    return None if spec.fixed_size else len(load_dataset(name, root=root, train=True).classes) or None


def resolved_name(name: str) -> str:
    """A data set's name in one form, however its folder was written: absolute and without links; for the only folder in
    it, where that holds the parts of the data set."""
    base, _, folder = name.partition(":")
    if base not in OF_A_FOLDER or not folder:
        return name
    place = _path(folder)
    inner = folder_of_splits(place) if base == "imagefolder" and place.is_dir() else place
    return f"{base}:{os.path.realpath(inner)}"


def _spec(name: str) -> tuple[DatasetSpec, str]:
    base, _, folder = name.partition(":")
    if base not in DATASETS or (folder and base not in OF_A_FOLDER):
        near = difflib.get_close_matches(name.lower(), DATASETS, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"the data set must be one of {', '.join(dataset_names())}, got {name!r}{hint}")
    return DATASETS[base], folder


def _search(
    spec: DatasetSpec, root: str | os.PathLike[str] | None, train: bool, size: ImageSize, download: bool
) -> ImageData | None:
    if spec.name in OF_A_FOLDER:
        if root is None:
            raise InputError(f"{spec.name} needs a folder: {spec.name}:DIR")
        return spec.look_in(_path(root), train, size)
    own = [_path(place) for place in (root, os.environ.get("SVDA_DATA"), "~/.cache/svda_analysis") if place]
    for place in [*own[:-1], *map(Path, spec.usual_folders), own[-1]]:
        if data := spec.look_in(place, train, size):
            return data
    if not download or spec.download is None:
        return None
    try:
        spec.fetch_into(own[0])
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise InputError(f"the download of {spec.title} failed ({one_line(error)}); {spec.how_to_get}") from None
    return spec.look_in(own[0], train, size)


def _path(place: str | os.PathLike[str]) -> Path:
    return Path(os.path.expanduser(place))
