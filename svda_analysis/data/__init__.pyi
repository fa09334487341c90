from .catalog import DATASETS, DatasetSpec, dataset_names, register_dataset
from .files import IMAGE_SUFFIXES, images_under, left_out, open_image
from .images import FolderImages, ImageData, MemoryImages, crop_and_flip, stretched
from .loading import count_classes, load_dataset
from .preprocessing import IMAGENET_MEAN, IMAGENET_STD, ImageSize, Preprocessing, in_pixels, sides, usual_resize

__all__ = [
    "DATASETS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_SUFFIXES",
    "DatasetSpec",
    "FolderImages",
    "ImageData",
    "ImageSize",
    "MemoryImages",
    "Preprocessing",
    "count_classes",
    "crop_and_flip",
    "dataset_names",
    "images_under",
    "in_pixels",
    "left_out",
    "load_dataset",
    "open_image",
    "register_dataset",
    "sides",
    "stretched",
    "usual_resize",
]
