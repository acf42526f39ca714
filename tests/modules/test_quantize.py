"""Quantizers: figures of the published implementation, invariants, and what k-means and revival are for."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parity import agree, build, cases, inputs, make, names

from taming.modules.vqvae.codebook import kmeans, nearest_code, pick_rows
from taming.modules.vqvae.quantize import EMAVectorQuantizer, GumbelQuantize, VectorQuantizer2

CASES = cases("quantizers")


@pytest.fixture
def used_file(tmp_path):
    def write(values):
        np.save(tmp_path / "used.npy", np.array(values, dtype=np.int64))
        return str(tmp_path / "used.npy")

    return write


def build_with_remap(case, used_file):
    return build(case, **({"remap": used_file(case["used"])} if "used" in case else {}))


def ramp_gradients(case, module, loss, z_q, **others):
    """Gradients of loss + mean(z_q * ramp), as the figures have them for whichever tensors they list."""
    ramp = torch.linspace(-1, 1, z_q.numel()).view(z_q.shape)
    (loss + (z_q * ramp).mean()).backward()
    gradients = {name: tensor.grad for name, tensor in (dict(module.named_parameters()) | others).items()}
    if hasattr(module, "embedding") and module.embedding.weight.requires_grad:
        gradients["embedding_norm"] = module.embedding.weight.grad.norm()
    stored = next(value for key, value in case["outputs"].items() if key.startswith("grad"))
    return {name: gradients[name] for name in stored}


@pytest.mark.parametrize("name", [name for name in names("quantizers", "vq2") if name != "vq2/remap-tables"])
def test_vector_quantizer_2(name, used_file):
    case = CASES[name]
    module = build_with_remap(case, used_file)
    z = inputs(case)["z"].requires_grad_()
    z_q, loss, (_, _, indices) = module(z)
    b, d, h, w = z.shape
    got = {
        "z_q": z_q,
        "loss": loss,
        "indices": indices,
        "entry_of_indices": module.get_codebook_entry(indices.reshape(-1), (b, h, w, d)),
        "grads_of_loss_plus_mean_zq_times_ramp": ramp_gradients(case, module, loss, z_q, z=z),
    }
    if "entry_of_first_three_no_shape" in case["outputs"]:
        got["entry_of_first_three_no_shape"] = module.get_codebook_entry(indices.reshape(-1)[:3], None)
    agree(without_margin(case), got)


def without_margin(case):
    """Figures without the remark how near the nearest tie was."""
    return {key: value for key, value in case["outputs"].items() if key != "distance_margin_min"}


def test_older_vector_quantizer():
    case = CASES["vq-old"]
    module, z = build(case), inputs(case)["z"].requires_grad_()
    z_q, loss, (perplexity, encodings, indices) = module(z)
    b, d, h, w = z.shape
    got = {
        "z_q": z_q,
        "loss": loss,
        "indices": indices,
        "perplexity": perplexity,
        "min_encodings_shape": list(encodings.shape),
        "min_encodings_column_sums": encodings.sum(dim=0),
        "entry_of_indices": module.get_codebook_entry(indices, (b, h, w, d)),
        "entry_of_first_three_no_shape": module.get_codebook_entry(indices[:3, 0], None),
        "grads_of_loss_plus_mean_zq_times_ramp": ramp_gradients(case, module, loss, z_q, z=z),
    }
    agree(without_margin(case), got)


@pytest.mark.parametrize("name", [name for name in names("quantizers", "gumbel") if "manual-seed" not in name])
def test_gumbel(name, used_file, gumbel_noise):
    """Decision D17: in eval mode the published draw needs stochastic_eval. manual-seed depends on torch's generator."""
    case = CASES[name]
    module = build_with_remap(case, used_file)
    module.stochastic_eval = True
    gumbel_noise(case["noise"]["fill"])
    z = inputs(case)["z"].requires_grad_()
    z_q, kl, info, *logits = module(z, **case.get("call_kwargs", {}))
    indices = info[2] if module.use_vqinterface else info
    shape = (*indices.shape, z_q.shape[1])
    got = {"z_q": z_q, "kl": kl, "indices": indices}
    if logits:
        got["logits"] = logits[0]
        got["grad_norms_of_kl_plus_mean_zq_times_ramp"] = {
            key: gradient.norm() for key, gradient in ramp_gradients(case, module, kl, z_q, z=z).items()
        }
    if "entry_of_indices" in case["outputs"]:
        got["entry_of_indices"] = module.get_codebook_entry(indices.reshape(-1), shape)
    if "codes_repeated" in case:
        codes = torch.tensor(case["codes_repeated"]).repeat(indices.numel())[: indices.numel()]
        got["entry_of_codes"] = module.get_codebook_entry(codes, shape)
    agree(case["outputs"], got)


@pytest.mark.parametrize("straight_through", [True, False])
def test_gumbel_takes_the_most_likely_code_in_eval_mode(straight_through):
    """Decision D17: no random numbers, the same codes with and without gradient, the gradient that of a softmax."""
    module = GumbelQuantize(5, 4, 12, straight_through=straight_through).eval()
    z = torch.randn(2, 5, 3, 4, requires_grad=True)
    state = torch.get_rng_state()
    z_q, _, (_, _, indices), logits = module(z, temp=0.5, return_logits=True)
    with torch.no_grad():
        looked_up, _, (_, _, again) = module(z)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(indices, logits.argmax(dim=1)) and torch.equal(indices, again)
    assert torch.allclose(z_q, looked_up, atol=1e-6) and torch.equal(looked_up, module.embed_code(indices))
    (gradient,) = torch.autograd.grad(z_q.square().sum(), logits, retain_graph=True)
    soft = (logits / 0.5).softmax(dim=1)
    expected = torch.autograd.grad(soft, logits, torch.einsum("bdhw,kd->bkhw", 2 * z_q, module.embed.weight))[0]
    assert torch.allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize("index", [-1, 12])
@pytest.mark.parametrize("make_quantizer", [VectorQuantizer2, EMAVectorQuantizer, GumbelQuantize])
def test_an_index_out_of_range_is_named(make_quantizer, index):
    options = (4, 4, 12) if make_quantizer is GumbelQuantize else (12, 4, 0.25)
    with pytest.raises(ValueError, match=rf"codebook index {index} is out of range: .* entries 0 to 11"):
        make_quantizer(*options).get_codebook_entry(torch.tensor([0, index, 3]), None)


def test_wide_types_are_kept():
    module = VectorQuantizer2(8, 4, beta=0.25).double()
    z_q, loss, _ = module(torch.randn(1, 4, 2, 2, dtype=torch.float64))
    assert z_q.dtype == loss.dtype == torch.float64


def test_remap_tables_leave_their_argument_alone(used_file):
    """Decision D15: the values are the published ones, the argument is no longer modified."""
    case = CASES["vq2/remap-tables"]
    module = VectorQuantizer2(**case["kwargs"], remap=used_file(case["used"]))
    tensors = {name: torch.tensor(values) for name, values in case["inputs"].items()}
    before = tensors["unmap_to_all"].clone()
    agree(case["outputs"], {name: getattr(module, name)(x) for name, x in tensors.items()})
    assert torch.equal(tensors["unmap_to_all"], before)


def test_random_unknown_index_gives_used_codes(used_file):
    module = VectorQuantizer2(16, 2, beta=0.25, remap=used_file([3, 7, 11]))
    mapped = module.remap_to_used(torch.arange(16)[None])
    assert mapped[0, [3, 7, 11]].tolist() == [0, 1, 2]
    assert mapped.min() >= 0 and mapped.max() < 3


@pytest.mark.parametrize("name", ["ema/train", "ema/eval"])
def test_ema(name):
    """Figures of the evident intent; cluster_size is filled, so decision D18 (it starts at ones) does not show."""
    case = CASES[name]
    module = build(case)
    z, z2 = (x.requires_grad_() for x in inputs(case).values())
    z_q, loss, (perplexity, encodings, indices) = module(z)
    got = {"z_q": z_q, "loss": loss, "perplexity": perplexity, "indices": indices}
    got["encodings_shape"] = list(encodings.shape)
    got["grad_z"] = ramp_gradients({"outputs": {"grad": ["z"]}}, module, loss, z_q, z=z)["z"]
    got["after_first"] = {key: value.clone() for key, value in module.state_dict().items()}
    z_q, loss, (perplexity, _, indices) = module(z2)
    state = module.state_dict()
    got["second"] = {"z_q": z_q, "loss": loss, "perplexity": perplexity, "indices": indices, "state": state}
    agree(case["outputs"], got)


def test_unused_codes_stay_where_they_are_under_ema():
    """Decision D18: with running counts of one, a code without vectors keeps its place instead of flying off."""
    module = EMAVectorQuantizer(4, 2, beta=0.25)
    module.embedding.reseat(torch.ones(4, dtype=torch.bool), torch.tensor([[0.0, 0], [9, 9], [-9, 9], [9, -9]]), 1.0)
    module(torch.zeros(1, 2, 4, 4))
    assert torch.allclose(module.embedding.weight[1:], torch.tensor([[9.0, 9], [-9, 9], [9, -9]]), atol=0.01)


@pytest.mark.parametrize("build_quantizer", [VectorQuantizer2, EMAVectorQuantizer])
def test_entries_of_indices_are_the_quantized_latents(build_quantizer):
    module = build_quantizer(32, 4, 0.25).eval()
    z = torch.randn(2, 4, 3, 5)
    z_q, _, (_, _, indices) = module(z)
    entries = module.get_codebook_entry(indices, (2, 3, 5, 4))
    assert torch.allclose(entries, z_q, atol=1e-6)
    assert torch.equal(module.embed_code(indices.view(2, 3, 5)), entries)
    assert torch.equal(module(entries)[2][2], indices)


@given(n=st.integers(1, 1100), k=st.integers(1, 40), d=st.integers(1, 6), seed=st.integers(0, 99))
def test_nearest_code_is_the_brute_force_one(n, k, d, seed):
    generator = torch.Generator().manual_seed(seed)
    vectors, codebook = torch.randn(n, d, generator=generator), torch.randn(k, d, generator=generator)
    distances = torch.cdist(vectors.double(), codebook.double()).square()
    found = distances.gather(1, nearest_code(vectors, codebook)[:, None])[:, 0]
    assert torch.allclose(found, distances.min(dim=1).values, atol=1e-5)


def test_autocast_does_not_change_the_codes():
    """Decision D06: distances are computed in float32 whatever the precision of the networks."""
    module = VectorQuantizer2(64, 8, beta=0.25)
    z = torch.randn(1, 8, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, _, (_, _, indices) = module(z)
    assert torch.equal(indices, module(z)[2][2])


def test_kmeans_finds_separated_clusters():
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    vectors = (centres[:, None] + 0.1 * torch.randn(4, 50, 2)).reshape(-1, 2)
    found = kmeans(vectors, 8, iterations=20)
    assert torch.cdist(centres, found).min(dim=1).values.max() < 0.5


def test_kmeans_of_fewer_vectors_than_centres():
    centres = kmeans(torch.randn(5, 3), 12)
    assert centres.shape == (12, 3)
    assert len(centres.unique(dim=0)) == 12


def test_pick_rows_takes_different_rows_while_there_are_enough():
    vectors = torch.arange(10.0)[:, None]
    assert pick_rows(vectors, 10).sort(dim=0).values.equal(vectors)
    assert pick_rows(vectors, 25).shape == (25, 1)


def latents_far_from_the_origin(seed):
    return 5.0 + torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_the_codebook_is_initialized_once_and_again_after_loading_an_earlier_state():
    module = EMAVectorQuantizer(8, 3, beta=0.25, kmeans_init=True)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module(latents_far_from_the_origin(0))
    assert module.kmeans_initialized
    initialized = module.kmeans_initialized
    module.kmeans_initialized = torch.empty((), dtype=torch.bool, device="meta")  # cannot be read: no step waits for it
    module(latents_far_from_the_origin(1))
    module.kmeans_initialized = initialized
    module.load_state_dict(before)
    assert not module.kmeans_initialized
    module(latents_far_from_the_origin(2))
    assert module.kmeans_initialized and usage(module, latents_far_from_the_origin(2)) > 0.9


def usage(module, z):
    return len(module.eval()(z)[2][2].unique()) / module.n_e


def test_kmeans_init_happens_once_and_puts_every_code_to_use():
    z = latents_far_from_the_origin(0)
    plain, initialised = EMAVectorQuantizer(64, 3, 0.25), EMAVectorQuantizer(64, 3, 0.25, kmeans_init=True)
    for module in (plain, initialised):
        module(z)
    assert usage(initialised, z) > 0.9 > 0.3 > usage(plain, z)
    first = initialised.embedding.weight.clone()
    initialised.train()(z)
    assert (initialised.embedding.weight - first).abs().max() < 1.0, "initialised a second time"


def test_initialised_state_survives_a_checkpoint():
    trained, resumed = (EMAVectorQuantizer(8, 3, 0.25, kmeans_init=True) for _ in range(2))
    trained(latents_far_from_the_origin(1))
    resumed.load_state_dict(trained.state_dict())
    resumed(latents_far_from_the_origin(2))
    assert (resumed.embedding.weight - trained.embedding.weight).abs().max() < 0.5


def test_revival_brings_dead_codes_back():
    torch.manual_seed(0)
    modules = [EMAVectorQuantizer(64, 3, 0.25, decay=0.9, revive_threshold=threshold) for threshold in (0.0, 0.5)]
    for step in range(30):
        for module in modules:
            module.train()(latents_far_from_the_origin(step))
    dead, alive = (usage(module, latents_far_from_the_origin(99)) for module in modules)
    assert dead < 0.3 and alive > 0.8


def test_no_update_in_eval_mode_or_when_switched_off():
    module = EMAVectorQuantizer(8, 3, 0.25, kmeans_init=True, revive_threshold=1.0)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    module.embedding.update = False
    module(latents_far_from_the_origin(0))
    module.embedding.update = True
    module.eval()(latents_far_from_the_origin(0))
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_reference_inputs_are_the_ones_the_figures_were_made_with():
    from reference import fill

    fill.self_check()
    assert make({"integers": "check", "shape": [5], "high": 1000}).tolist() == [275, 755, 312, 626, 578]
