"""What a training on ImageNet-100 takes, calculated and not measured -> reports/benchmarks/training_cost.md and .csv.

    python benchmarks/training_cost.py [--images 126689] [--epochs 90] [--batch 256]

time = epochs * images * 6 * MACs / (GPUs * peak * utilisation): two operations a multiply-add, and the backward pass is
two forward passes. memory of a GPU = 16 bytes * parameters + 34 bytes * L N C * (batch / GPUs): weights, gradients and
two moments of Adam in float32; activations of a pre-norm block in 16 bits, the map itself never stored by fused
attention (Korthikanti et al. 2022, eq. 1, without its quadratic term).
"""

import argparse
from pathlib import Path

import pandas as pd

from svda_analysis.model import ViTConfig
from svda_analysis.render.markdown import markdown_table
from svda_analysis.study.costs import model_size

FOLDER = Path("reports") / "benchmarks"
PRESETS = {"ViT-Ti/16": "imagenet100", "ViT-S/16": "vit_small"}
PEAK, UTILISATION = 312e12, 0.3  # operations a second of one A100 in bfloat16 (its data sheet); our assumption


def cost(preset: str, gpus: int, *, images: int, epochs: int, batch: int) -> dict[str, float]:
    """Hours of the whole training and gigabytes of each GPU, by the formulas above."""
    config = ViTConfig.preset(preset, attention="svda", num_classes=100)
    size, tokens = model_size(config), 1 + config.grid**2
    seconds = epochs * images * 6 * size.macs / (gpus * PEAK * UTILISATION)
    memory = 16 * size.parameters + 34 * config.depth * tokens * config.dim * batch / gpus
    return {"hours": seconds / 3600, "gigabytes": memory / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=126_689)
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--batch", type=int, default=256)
    plan = vars(parser.parse_args())
    rows = [
        {"model": name, "nodes": nodes, "gpus": 4 * nodes, **cost(preset, 4 * nodes, **plan)}
        for name, preset in PRESETS.items()
        for nodes in (1, 2)
    ]
    FOLDER.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows)
    frame.to_csv(FOLDER / "training_cost.csv", index=False, float_format="%.6g")
    shown = frame.assign(hours=frame["hours"].map("{:.2f}".format), gigabytes=frame["gigabytes"].map("{:.2f}".format))
    said = " ".join(f"--{key} {value}" for key, value in plan.items())
    (FOLDER / "training_cost.md").write_text(
        "# What a training on ImageNet-100 takes\n\n"
        f"Made by `python benchmarks/training_cost.py {said}`. Calculated, not measured: nothing was trained on "
        "ImageNet here, and reading and cropping photographs may well take longer than the model does.\n\n"
        "- time = epochs x images x 6 x MACs / (GPUs x peak x utilisation): two operations a multiply-add, and the "
        f"backward pass is two forward passes; peak {PEAK:.3g} operations a second (an A100 in bfloat16, by its data "
        f"sheet), utilisation {UTILISATION} (an assumption);\n"
        "- memory of a GPU = 16 bytes x parameters + 34 bytes x L N C x batch / GPUs: weights, gradients and the two "
        "moments of Adam in float32; activations of L blocks over N tokens of C features in 16 bits, where fused "
        "attention stores no map (Korthikanti et al. 2022, eq. 1, without its quadratic term). The batch is "
        "that of all GPUs together.\n\n" + markdown_table(shown) + "\n"
    )


if __name__ == "__main__":
    main()
