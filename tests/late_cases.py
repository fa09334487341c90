"""Small models to train the last blocks of, and folders of small images."""

import numpy as np
import torch
from converted_cases import made
from PIL import Image

from svda_analysis.checkpoint import Checkpoint, save
from svda_analysis.model import ViT, ViTConfig

TIMM = "timm:vit_tiny_patch16_224?img_size=32&patch_size=8&embed_dim=48&depth=3&num_heads=2"


def photographs(folder, train=12, test=6):
    """An ImageFolder of three classes, each of a colour of its own with noise; its name as data."""
    draw = np.random.default_rng(0)
    for part, number in {"train": train, "test": test}.items():
        for at, name in enumerate(("blue", "green", "red")):
            place = folder / part / name
            place.mkdir(parents=True)
            for each in range(number // 3):
                pixels = draw.integers(0, 160, (36, 40, 3))
                pixels[..., 2 - at] += 90
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{each}.png")
    return f"imagefolder:{folder}"


def base_spec(library, folder):
    """A model with random weights, saved as its library does, as a spec."""
    if library == "timm":
        torch.save(made("timm vit").state_dict(), folder / "weights.pt")
        return f"{TIMM}@{folder / 'weights.pt'}"
    if library == "ours":
        config = ViTConfig(image_size=32, in_channels=3, patch_size=8, dim=24, depth=3, heads=2, num_classes=7)
        torch.manual_seed(0)
        save(Checkpoint(config=config, model=ViT(config).state_dict(), epoch=1), folder / "own.pt")
        return str(folder / "own.pt")
    made(library).save_pretrained(folder / "hf")
    return f"hf:{folder / 'hf'}"
