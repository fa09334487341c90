"""Which output of a model stands for a class of the data: by name, by WordNet id, by number, by order."""

import pytest
import torch

from svda_analysis.meanings import imagenet_classes, meaning


def outputs(*given):
    found = meaning("data", *given)
    return None if found.outputs is None else found.outputs.tolist()


@pytest.mark.parametrize(
    ("classes", "learned", "number", "wanted"),
    [
        (("a", "b"), ("a", "b"), 2, [0, 1]),
        (("a", "b"), ("b", "c", "a"), 3, [2, 0]),
        (("Great-White_shark",), ("tench, Tinca tinca", "great white shark, white shark"), 2, [1]),
        (("a", "d"), ("a", "b", "c"), 3, None),
        (("a",), ("a", "a"), 2, None),  # which of them?
        (("a", "b"), (), None, [0, 1]),
        (("a", "b"), (), 2, [0, 1]),
        (("a", "b"), (), 3, None),
        (("0", "1", "2"), (), 3, [0, 1, 2]),
        (("1", "2", "3"), (), 3, [0, 1, 2]),  # as many, counted from 1
        (("3", "7"), (), 10, [3, 7]),
        (("3", "10"), (), 10, None),
        (("3", "7"), (), None, [0, 1]),
    ],
)
def test_classes_are_found_among_those_of_a_model(classes, learned, number, wanted):
    assert outputs(classes, learned, number) == wanted


def test_wordnet_ids_are_imagenets_classes_in_their_usual_order():
    wordnet = imagenet_classes()
    assert len(wordnet) == 1000
    assert list(wordnet) == sorted(wordnet)
    assert (wordnet[0], wordnet[15], wordnet[207], wordnet[980]) == ("n01440764", "n01558993", "n02099601", "n09472597")
    some = (wordnet[980], wordnet[15])
    named = ("tench, Tinca tinca", *map(str, range(1, 1000)))
    assert outputs(some, (), 1000) == outputs(some, named, 1000) == [980, 15]
    assert outputs(some, (), 2) == [0, 1]  # a model of these two
    assert outputs(some, tuple(map(str, range(1000))), 1000) is None  # of other classes
    assert outputs((*some, "n99999999"), (), 1000) is None


def test_labels_become_those_of_the_model_and_no_label_stays():
    found = meaning("data", ("a", "b"), ("b", "c", "a"), 3)
    assert found.labels(torch.tensor([0, 1, -1])).tolist() == [2, 0, -1]
    assert (found.classes, found.scores, found.warning) == (("b", "c", "a"), 3, None)
    lost = meaning("data", ("x", "y"), ("b", "c", "a"), 3)
    assert lost.labels(torch.tensor([0, 1])) is None
    assert lost.warning == "the classes of data are not those that the model learned: no accuracy is given"
    assert meaning("data", ("x", "y"), (), 3).warning == "data has 2 classes and the model 3: no accuracy is given"
