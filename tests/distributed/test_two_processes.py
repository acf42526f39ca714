"""Two processes, each with half of every batch, train as one process with the whole batch does."""

import pytest
import torch
from two_processes import DISC_START, HALF, IMAGES, MODELS, STEPS, run, run_two, transformer

from taming.checkpoint import load_checkpoint

REPLICATED = ("vqgan", "gumbel", "ema", "transformer")
SHARDED = ("fsdp", "resumed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def both(folder):
    """What each of two processes has trained, by kind."""
    return run_two(folder, list(MODELS))


@pytest.fixture(scope="module")
def alone():
    """What one process has trained."""
    results = {kind: run(kind) for kind in ("vqgan", "gumbel", "ema", "transformer")}
    return results | {"fsdp": results["transformer"]}


def mean_losses(processes):
    """The mean over the processes of each loss of each step."""
    steps = zip(*(process["losses"] for process in processes), strict=True)
    return [{name: sum(step[name] for step in each) / len(each) for name in each[0]} for each in steps]


@pytest.mark.parametrize("kind", [*REPLICATED, "fsdp"])
def test_the_losses_of_every_step_are_those_of_one_process(both, alone, kind):
    together, single = mean_losses(both[kind]), alone[kind]["losses"]
    assert len(together) == len(single) == STEPS
    for step in range(STEPS):
        assert together[step] == pytest.approx(single[step], rel=1e-5, abs=1e-8), step


def largest_difference(steps, others):
    """The largest relative difference of each loss over the steps."""
    pairs = list(zip(steps, others, strict=True))
    return {name: max(abs(a[name] - b[name]) / max(abs(b[name]), 1e-8) for a, b in pairs) for name in steps[0]}


def test_in_float32_a_vqgan_is_as_near_to_one_process_as_that_is_to_itself_with_its_images_in_another_order(both):
    """Rounding, which Adam makes as large as a step where a gradient vanishes, leaves no more: see the README."""
    kind = "vqgan in float32"
    single, turned = run(kind)["losses"], run(kind, order=reversed(range(IMAGES)))["losses"]
    found, rounding = largest_difference(mean_losses(both[kind]), single), largest_difference(turned, single)
    assert rounding["train/discloss_step"] > 1e-5
    for name, difference in found.items():
        assert difference <= max(1e-5, rounding[name]), name


def test_the_adversarial_loss_and_its_adaptive_weight_took_part(alone):
    weights = [step["train/d_weight_step"] for step in alone["vqgan"]["losses"]]
    assert set(weights[:DISC_START]) == {0.0} and min(weights[DISC_START:]) > 0 and max(weights) < 1e4


@pytest.mark.parametrize("kind", REPLICATED)
def test_processes_end_with_the_same_weights(both, kind):
    first, second = (process["weights"] for process in both[kind])
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_codebook_that_follows_its_vectors_is_that_of_one_process(both, alone):
    """Its k-means start and the revival of its unused codes take the vectors of both."""
    for name in ("weight", "cluster_size", "embed_avg"):
        key = f"quantize.embedding.{name}"
        assert torch.allclose(both["ema"][0]["weights"][key], alone["ema"]["weights"][key], atol=1e-7), name


@pytest.mark.parametrize("kind", SHARDED)
def test_sharded_weights_are_whole_in_the_first_process(both, alone, kind):
    first, second = (process["weights"] for process in both[kind])
    for name, value in alone["transformer"]["weights"].items():
        assert torch.allclose(first[name], value, atol=1e-5), name
    assert second["transformer.head.weight"].numel() == 0


def test_a_sharded_run_goes_on_from_a_checkpoint_of_another_strategy(both, alone):
    losses = [step["train/loss_step"] for step in mean_losses(both["resumed"])]
    expected = [step["train/loss_step"] for step in alone["transformer"]["losses"][HALF:]]
    assert losses == pytest.approx(expected, rel=1e-5)


def test_sharded_checkpoints_are_those_of_one_process(both, folder):
    sharded, replicated = (load_checkpoint(folder / kind / "last.ckpt") for kind in ("fsdp", "transformer"))
    transformer().load_state_dict(sharded["state_dict"], strict=True)
    assert sharded.keys() == replicated.keys() and sharded["global_step"] == STEPS
    (ours,), (theirs,) = (checkpoint["optimizer_states"] for checkpoint in (sharded, replicated))
    assert ours["param_groups"] == theirs["param_groups"]
    assert [group["weight_decay"] for group in ours["param_groups"]] == [0.01, 0.0]
    for number, state in theirs["state"].items():
        assert all(torch.allclose(ours["state"][number][key], value, atol=1e-5) for key, value in state.items())


@pytest.mark.parametrize("kind", ["transformer", "fsdp"])
def test_a_checkpoint_that_one_process_was_asked_for_is_made_between_two_batches(both, kind):
    assert both[kind][0]["saved"] == HALF


def test_sharded_models_log_images(both, folder):
    names = {path.name.partition("_gs")[0] for path in (folder / "fsdp" / "images" / "train").iterdir()}
    assert {"inputs", "reconstructions", "samples_nopix", "samples_half", "samples_det"} <= names
