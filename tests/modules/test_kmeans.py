"""k-means over colours: figures of the published implementation, empty clusters, bad input."""

import pytest
import torch
from parity import agree, build, cases, inputs, names

from taming.modules.transformer import kmeans
from taming.modules.transformer.kmeans import KMeans

CASES = cases("kmeans")


def test_codes_and_colours():
    case = CASES["kmeans"]
    model, tensors = build(case), inputs(case)
    x, codes = tensors["x"], tensors["codes"]
    assigned = model(x)
    got = {
        "assign": assigned,
        "reverse_of_assign": model(assigned, reverse=True, shape=x.shape[1:]),
        "reverse_of_codes": model(codes, reverse=True, shape=(3, 4, 2)),
        "is_initialized": model.is_initialized(),
    }
    agree(case["outputs"], got)
    assert torch.equal(model(got["reverse_of_codes"]), codes), "a colour of the palette is nearest to itself"


def test_centres(monkeypatch):
    """The first points are the first centres."""
    case = CASES["kmeans/initialize-first-points"]
    monkeypatch.setattr(torch, "randperm", torch.arange)
    model = build(case)
    model.initialize(inputs(case)["x"])
    agree(case["outputs"], model.state_dict())
    assert model.is_initialized()


def test_names_of_cases_are_all_used():
    assert set(names("kmeans", "")) == {"kmeans", "kmeans/initialize-first-points"}


def test_the_random_start_is_drawn_from_the_global_stream():
    x, palettes = torch.rand(60, 3), []
    for _ in range(2):
        torch.manual_seed(0)
        model = KMeans(ncluster=5, niter=3)
        model.initialize(x)
        palettes.append(model.C)
    assert torch.equal(*palettes)


def test_empty_clusters_become_points():
    """Of several centres at the same place one gets all the points."""
    x = torch.tensor([[1.0], [5.0]]).repeat(20, 1)
    model = KMeans(ncluster=6, nc=1, niter=4)
    model.initialize(x)
    assert set(model.C.flatten().tolist()) <= {1.0, 5.0}


def test_the_default_shape_is_that_of_small_photographs():
    model = KMeans(ncluster=4)
    assert model.shape == (3, 32, 32)
    assert model(torch.zeros(2, 1024, dtype=torch.int64), reverse=True).shape == (2, 3, 32, 32)


def test_the_search_in_pieces_is_the_same(monkeypatch):
    x, centres = torch.randn(100, 3), torch.randn(7, 3)
    whole = kmeans._nearest(x, centres)
    monkeypatch.setattr(kmeans, "CHUNK_ELEMENTS", 1)
    assert torch.equal(kmeans._nearest(x, centres), whole)


@pytest.mark.parametrize("shape", [(4, 3), (9, 2)])
def test_points_that_do_not_suffice(shape):
    with pytest.raises(ValueError, match="at least 5 points of 3 channels"):
        KMeans(ncluster=5).initialize(torch.zeros(shape))
