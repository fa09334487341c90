"""The stream of images: moments alone are kept, and merged exactly."""

import torch

from svda_analysis.indicators import choose_indicators
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.streaming import Stream


def test_memory_does_not_grow_with_the_number_of_images():
    stream = Stream(ViT(ViTConfig(attention="svda", dim=24, depth=2, heads=2)).eval(), choose_indicators())
    sizes = []
    for seed in range(3):
        stream.update(torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(seed)))
        moments = [*stream.moments.values(), *stream.spectrum_moments.values()]
        sizes.append(sum(m.mean.size + m.m2.size for m in moments))
    assert sizes[0] == sizes[1] == sizes[2]


def labelled(labels, *, rest=()):
    """The stream of images with these labels, what is predicted of the first three, and the table."""
    torch.manual_seed(0)
    model = ViT(ViTConfig(dim=24, depth=1, heads=2)).eval()
    torch.nn.init.normal_(model.head.weight)
    stream, images = Stream(model, choose_indicators(["attention_entropy"]), classes=10), torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        stream.update(images, torch.tensor(labels))
        if rest:
            stream.update(torch.randn(len(rest), 1, 28, 28), torch.tensor(rest))
        predicted = model(images).argmax(-1)
    return stream, predicted, stream.table({"model": "m"}).set_index("indicator")


def test_accuracy_is_over_the_images_that_have_a_label():
    stream, predicted, table = labelled([-1, 4, -1])
    assert table.loc["accuracy", "n"] == 1
    assert table.loc["accuracy", "mean"] == float(predicted[1] == 4)
    assert not stream.beyond
    assert "accuracy" not in labelled([-1, -1, -1])[2].index


def test_labels_beyond_the_outputs_leave_no_accuracy_of_any_batch():
    for first, rest in (([1, 2, 3], (4, 12)), ([1, 2, 12], (4, 5))):
        stream, _, table = labelled(first, rest=rest)
        assert stream.beyond == "label 12 and the model 10 outputs"
        assert not {"accuracy", "loss"} & set(table.index)
