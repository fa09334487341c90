"""Make svda_analysis/sample/fashion_mnist.npz: the first 200 training and 100 test images of each FashionMNIST class.

Needs the original files (apt-get install dataset-fashion-mnist). The images keep their order in the files, and the
archive carries no dates, so that the same zlib makes the same bytes again.

    python benchmarks/make_sample.py [OUT.npz]
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np

from svda_analysis.data import MemoryImages, load_dataset

PER_CLASS = {"train": 200, "test": 100}
OUT = Path(__file__).resolve().parents[1] / "svda_analysis" / "sample" / "fashion_mnist.npz"


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Positions of the first ``count`` of each label in ``labels (n,)``, ascending."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))


def sample_arrays() -> dict[str, np.ndarray]:
    arrays = {}
    for split, count in PER_CLASS.items():
        data = load_dataset("fashion_mnist", train=split == "train", allow_download=False)
        assert isinstance(data, MemoryImages)
        chosen = first_of_each_class(data.labels.numpy(), count)
        arrays[f"{split}_images"] = data.images.numpy()[chosen, 0]
        arrays[f"{split}_labels"] = data.labels.numpy()[chosen].astype(np.uint8)
    return arrays


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, whenever it is written
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


if __name__ == "__main__":
    write_npz(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT, sample_arrays())
