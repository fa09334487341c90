"""The stream of images: moments alone are kept, and merged exactly."""

import numpy as np
import pytest
import torch

from svda_analysis.errors import InputError
from svda_analysis.indicators import choose_indicators
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.streaming import Stream, costly_of_batch


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


COSTLY = {"spectral_entropy", "effective_rank", "spectral_sparsity", "attention_rank", "perturbation_robustness"}


def a_stream(**options):
    torch.manual_seed(0)
    return Stream(ViT(ViTConfig(attention="svda", dim=24, depth=2, heads=2)).eval(), choose_indicators(), **options)


def test_costly_indicators_of_some_images_are_those_of_these_alone():
    images, few = torch.randn(9, 1, 28, 28), torch.tensor([1, 4, 7])
    some, alone, whole = a_stream(noise=0), a_stream(noise=0), a_stream(noise=0)
    with torch.no_grad():
        some.update(images, costly=few)
        alone.update(images[few])
        whole.update(images)
    assert some.costly_images == 3
    for key, found in some.moments.items():
        wanted = alone if key[0] in COSTLY else whole
        assert found.n == wanted.moments[key].n
        np.testing.assert_allclose(found.mean, wanted.moments[key].mean, atol=2e-6, rtol=2e-6)
    for key, found in some.spectrum_moments.items():
        np.testing.assert_allclose(found.mean, alone.spectrum_moments[key].mean, atol=1e-6, rtol=1e-6)


def test_a_batch_without_costly_images_has_no_noisy_copy():
    stream, sizes = a_stream(), []
    stream.model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    with torch.no_grad():
        stream.update(torch.randn(4, 1, 28, 28), costly=torch.tensor([], dtype=torch.long))
        stream.update(torch.randn(4, 1, 28, 28), costly=torch.tensor([2]))
    assert sizes == [4, 5]
    assert stream.moments["perturbation_robustness", "attention", 0].n == 1
    assert stream.moments["attention_entropy", "attention", 0].n == 8
    assert stream.moments["effective_rank", "sigma", 0].n == 1


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("total", "few"), [(100, 7), (33, 32), (10, 1)])
def test_so_many_images_are_costly_whatever_the_batches(total, few, first):
    found = []
    for batch in (1, 4, total):
        parts = [
            costly_of_batch(min(batch, total - at), at, total, few, first=first) + at for at in range(0, total, batch)
        ]
        found.append(torch.cat(parts).tolist())
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == few
    assert first == (found[0] == list(range(few))) or (total, few) == (33, 32)
    assert costly_of_batch(4, 0, total, total, first=first) is None


def test_each_indicator_stops_when_it_is_known_well_enough():
    stream, counts = a_stream(), []
    with torch.no_grad():
        for _ in range(5):
            stream.update(torch.randn(16, 1, 28, 28), costly=None)
            stream.settle(0.02, 16)
            counts.append({key[0]: found.n for key, found in stream.moments.items() if key[2] == 0})
    stopped = {name for name, n in counts[-1].items() if n < 80 and n > 1}
    for name in stopped:
        keys = [key for key in stream.moments if key[0] == name and stream.moments[key].n > 1]
        for key in keys:
            low, high = stream.bounds[key]
            assert float(stream.moments[key].half_width().max()) < 0.02 * (high - low)
    assert stopped
    assert stream.settle(0.9, 16)


ROBUST = {"perturbation_robustness", "source_perturbation_robustness"}


def robustness(sizes, costly=None):
    """What noise does to 12 images that come in batches of these sizes; of them ``costly`` are measured."""
    torch.manual_seed(0)
    model = ViT(ViTConfig(attention="svda", dim=24, depth=2, heads=2)).eval()
    stream = Stream(model, choose_indicators(sorted(ROBUST)), noise=0.3, seed=5, normalisation=([0.5], [0.5]))
    images = torch.randn(12, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for batch in torch.arange(12).split(sizes):
            few = None if costly is None else torch.tensor([at for at, x in enumerate(batch) if int(x) in costly])
            stream.update(images[batch], costly=few if few is None else few.long())
    return {key: found for key, found in stream.moments.items() if key[0] in ROBUST}


def test_the_noise_of_an_image_is_the_same_in_any_batch_and_beside_any_others():
    whole = robustness(12)
    assert {name for name, _, _ in whole} == ROBUST
    for sizes in (1, 5, [7, 2, 3]):
        for key, found in robustness(sizes).items():
            np.testing.assert_allclose(found.mean, whole[key].mean, rtol=2e-6)
    few = {2, 3, 7}
    alone, beside = robustness([2, 1, 1, 3, 1, 4], few), robustness(12, few)
    for key, found in alone.items():
        assert found.n == beside[key].n == 3
        np.testing.assert_allclose(found.mean, beside[key].mean, rtol=2e-6)
        assert (np.abs(found.mean - whole[key].mean) > 1e-5 * whole[key].mean).any()


class Louder(torch.nn.Module):
    """Attention by hand, whose weights are no map where an image is bright, before attention of the kernel."""

    def forward(self, images):
        t = images.flatten(2).mT[:, None]
        gain = images.amax((1, 2, 3)).view(-1, 1, 1, 1).clamp(1)
        t = ((t @ t.mT).softmax(-1) * gain) @ t
        return torch.nn.functional.scaled_dot_product_attention(t, t, t).mean((1, 2))


def test_layers_whose_numbers_would_shift_from_batch_to_batch_are_an_error():
    stream, images = Stream(Louder(), choose_indicators(["attention_entropy"])), torch.rand(2, 3, 4, 4)
    stream.update(images)
    stream.update(images[:1])
    line = "Louder must have the same attention calls as maps for all images, got calls 0, 1, then 1"
    with pytest.raises(InputError, match=line):
        stream.update(3 * images)
