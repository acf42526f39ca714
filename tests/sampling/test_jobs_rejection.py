"""Rejection sampling: the best of the same candidates whatever the batches, interruptions and processes."""

import numpy as np
import pytest
import torch
from tiny_transformers import close, contents, manifest, same, tiny_model

from taming.images import to_uint8
from taming.sampling import rejection, samples, scores
from taming.sampling.jobs import sample_to_folder
from taming.sampling.options import SamplingOptions
from taming.sampling.samples import sample_images
from taming.sampling.scores import ClassifierScore, load_score
from taming.shards import Shard

K = (3, 8)
OPTIONS = {"num_samples": 3, "classes": [1, 3], "seed": 5, "top_k": K, "acceptance_rate": 0.3, "progress": False}
N_CANDIDATES = 10


def brightness(images, labels):
    """Odd ones out of the labels' favourite channel."""
    assert images.amin() >= -1 and images.amax() <= 1 and labels.dtype == torch.int64
    return images.mean(dim=(1, 2, 3)) * (labels - 2)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(rejection, "CANDIDATES_PER_FILE", 2)


def sample(model, root, **changes):
    return sample_to_folder(model, root, **({"score": brightness} | OPTIONS | changes))


@pytest.fixture(scope="module")
def expected(model, tmp_path_factory):
    return contents(sample(model, tmp_path_factory.mktemp("expected")))


def test_number_of_candidates():
    numbers = {(50, 0.05): 1000, (7, 0.07): 100, (3, 0.3): 10, (1, 0.4): 3, (2, 1.0): 2}
    for (num_samples, rate), n_candidates in numbers.items():
        assert SamplingOptions(num_samples=num_samples, acceptance_rate=rate).n_candidates == n_candidates


def test_the_best_are_kept_and_recorded(model, tmp_path):
    folder = sample(model, tmp_path)
    assert set(contents(folder)) == {f"{label}/{i:06}.png" for label in (1, 3) for i in range(3)}
    recorded = manifest(folder)
    assert (recorded["acceptance_rate"], recorded["classifier"], recorded["top_k"]) == (0.3, "brightness", [3, 8])
    for label in (1, 3):
        images = torch.cat([sample_images(model, [(label, i)], seed=5, top_k=K[i % 2])[0] for i in range(N_CANDIDATES)])
        score = brightness(images.clamp(-1, 1), torch.full((N_CANDIDATES,), label)).double()
        best = score.argsort(descending=True)[:3]
        chosen = recorded["scores"][str(label)]
        assert chosen["index"] == best.tolist() and chosen["score"] == pytest.approx(score[best].tolist())
        for i, candidate in enumerate(best):
            assert close(folder / str(label) / f"{i:06}.png", to_uint8(images[candidate]))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_files_do_not_depend_on_the_batch(model, tmp_path, expected, batch_size):
    assert same(contents(sample(model, tmp_path, batch_size=batch_size)), expected)


def test_an_interrupted_job_goes_on_where_it_was(model, tmp_path, expected, monkeypatch):
    sampled = []

    def interrupted(model, keys, **options):
        if len(sampled) == 11:
            raise KeyboardInterrupt
        sampled.extend(keys)
        return sample_images(model, keys, **options)

    monkeypatch.setattr(samples, "sample_images", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample(model, tmp_path, batch_size=1)
    monkeypatch.setattr(samples, "sample_images", lambda model, keys, **options: (
        sampled.extend(keys), sample_images(model, keys, **options))[1])  # fmt: skip
    folder = sample(model, tmp_path, seed=None)
    assert same(contents(folder), expected)
    assert len(sampled) <= 2 * N_CANDIDATES + 1, "only the candidate of the unfinished file is drawn again"


def test_candidates_without_images_are_work_of_the_job(model, tmp_path, monkeypatch):
    monkeypatch.setattr(rejection, "_write_chosen", lambda *args: {})
    sample(model, tmp_path)
    for options in ({"seed": 6}, {"seed": 6, "classes": "1", "overwrite": True}):
        with pytest.raises(ValueError, match="made with seed=5, not 6"):
            sample(model, tmp_path, **options)


def test_interrupted_while_writing(model, tmp_path, expected, monkeypatch):
    monkeypatch.setattr(rejection, "_finish", lambda *args: None)
    folder = sample(model, tmp_path)
    (folder / "3" / "000001.png").unlink()
    monkeypatch.undo()
    monkeypatch.setattr(rejection, "CANDIDATES_PER_FILE", 2)
    assert same(contents(sample(model, tmp_path)), expected)


def test_a_file_that_is_gone_is_the_same_candidate_again(model, tmp_path, expected, monkeypatch):
    folder = sample(model, tmp_path)
    (folder / "1" / "000002.png").unlink()
    drawn = []
    monkeypatch.setattr(samples, "sample_images", lambda model, keys, **options: (
        drawn.extend(keys), sample_images(model, keys, **options))[1])  # fmt: skip
    sample(model, tmp_path, seed=None)
    assert same(contents(folder), expected) and drawn == [(1, manifest(folder)["scores"]["1"]["index"][2])]


def test_parts_make_the_same_files(model, tmp_path, expected):
    for index in (0, 2, 1):
        folder = sample(model, tmp_path, shard=Shard(index, 3))
        assert same(contents(folder), expected) == (index == 1), "the last one chooses"
    assert len(manifest(folder)["scores"]) == 2


def test_classes_may_be_added_but_not_candidates(model, tmp_path, expected):
    sample(model, tmp_path, classes="3")
    folder = sample(model, tmp_path)
    assert same(contents(folder), expected) and set(manifest(folder)["scores"]) == {"1", "3"}
    with pytest.raises(ValueError, match="made with num_samples=3, not 4"):
        sample(model, tmp_path, num_samples=4)
    with pytest.raises(ValueError, match="made with classifier=brightness, not "):
        sample(model, tmp_path, score=lambda images, labels: images[:, 0, 0, 0])


def test_overwriting_chooses_anew(model, tmp_path, expected):
    folder = sample(model, tmp_path)
    before = manifest(folder)["scores"]
    sample(model, tmp_path, classes="1", overwrite=True)
    assert same(contents(folder), expected) and manifest(folder)["scores"] == before
    with pytest.raises(ValueError, match="made with seed=5, not 6"):
        sample(model, tmp_path, seed=6, classes="1", overwrite=True)
    sample(model, tmp_path, seed=6, overwrite=True)
    again = contents(folder)
    assert again.keys() == expected.keys() and not again.items() & expected.items()


def test_unconditional_samples_by_a_score_without_labels(tmp_path):
    model = tiny_model("__is_unconditional__")
    seen = set()

    def score(images, labels):
        seen.update(labels.tolist())
        return images.mean(dim=(1, 2, 3))

    folder = sample(model, tmp_path, classes=None, score=score)
    assert set(contents(folder)) == {f"00000{i}.png" for i in range(3)} and seen == {-1}
    assert manifest(folder)["scores"]["all"]["score"] == sorted(manifest(folder)["scores"]["all"]["score"])[::-1]


def test_nan_is_the_worst_and_another_shape_an_error(model, tmp_path):
    def broken(images, labels):
        return torch.where(images.mean(dim=(1, 2, 3)) > 0, torch.nan, 1.0)

    assert not np.isnan(manifest(sample(model, tmp_path / "nan", score=broken))["scores"]["1"]["score"]).any()
    with pytest.raises(ValueError, match=r"the score of 20 images must have shape \(20,\), not \(20, 2\)"):
        sample(model, tmp_path / "2", score=lambda images, labels: torch.zeros(len(images), 2), top_k=8)


def test_the_classifier_scores_its_confidence():
    weight = torch.tensor([[10.0, 0.0], [0.0, 10.0]])

    def classifier(images):
        return images.mean(dim=(2, 3))[:, :2] @ weight

    network = torch.nn.Identity()
    network.forward = classifier
    images = torch.zeros(2, 3, 4, 4)
    images[0, 0] = 1.0
    score = ClassifierScore(network, lambda images: images, "tiny")(images, torch.tensor([0, 1]))
    logits = torch.tensor([[10.0, 5.0], [5.0, 5.0]])
    assert torch.allclose(score, logits.log_softmax(dim=1)[[0, 1], [0, 1]])


def test_resnet101_for_a_model_of_imagenet(monkeypatch):
    monkeypatch.setattr(scores, "resnet101", lambda weights: torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 1000)))  # fmt: skip
    labels = {"target": "taming.modules.util.Labelator", "params": {"n_classes": 1000}}
    score = load_score("resnet101", tiny_model(labels, vocab_size=1000))
    assert score.name == "resnet101" and score(torch.zeros(2, 3, 32, 32), torch.tensor([0, 999])).shape == (2,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet101", "knows the 1000 classes of ImageNet, this model has 4"),
        ("cat", "--classifier cat: neither resnet101 nor the dotted name of a function"),
        ("taming.nothing.score", "taming.nothing"),
    ],
)
def test_classifiers_that_cannot_be_used(model, name, message):
    with pytest.raises(ValueError, match=message):
        load_score(name, model)
