from .catalog import DATASETS, DatasetSpec, dataset_names, register_dataset
from .files import IMAGE_SUFFIXES, open_image
from .images import FolderImages, ImageData, MemoryImages, crop_and_flip
from .loading import load_dataset
from .preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

__all__ = [
    "DATASETS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_SUFFIXES",
    "DatasetSpec",
    "FolderImages",
    "ImageData",
    "MemoryImages",
    "Preprocessing",
    "crop_and_flip",
    "dataset_names",
    "load_dataset",
    "open_image",
    "register_dataset",
]
