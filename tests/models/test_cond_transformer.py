"""Net2NetTransformer: figures of the published implementation and what its options mean."""

import pickle

import pytest
import pytorch_lightning as pl
import torch
from parity import agree, build, cases, fill, grad_norms, inputs, names
from torch.nn import functional as F

from taming.config import get_obj_from_str
from taming.modules.transformer.mingpt import GPT

CASES = cases("net2net")
ENCODED = [name for name in names("net2net", "net2net/") if "greedy" in CASES[name].get("outputs", {})]


def image_and_condition(case):
    tensors = inputs(case)
    return tensors["x"], tensors.get("c", tensors["x"])


@pytest.mark.parametrize("name", ENCODED)
def test_every_conditioning(name):
    case = CASES[name]
    model, outputs = build(case), case["outputs"]
    x, c = image_and_condition(case)
    quant_z, z_indices = model.encode_to_z(x)
    quant_c, c_indices = model.encode_to_c(c)
    logits, target = model(x, c)
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
    loss.backward()
    length = z_indices.shape[1]
    half = z_indices[:, : length // 2]
    greedy = model.sample(half[:, :0], c_indices, steps=length)
    got = {
        "quant_z": quant_z,
        "z_indices": z_indices,
        "quant_c": quant_c,
        "c_indices": c_indices,
        "logits": logits,
        "target": target,
        "loss": loss,
        "loss_grad_norms": grad_norms(model.transformer, outputs["loss_grad_norms"]),
        "greedy": greedy,
        "greedy_from_half": model.sample(half, c_indices, steps=length - half.shape[1], temperature=1.3, top_k=5),
        "decoded_greedy": model.decode_to_img(greedy, quant_z.shape),
        "decoded_input_codes": model.decode_to_img(z_indices, quant_z.shape),
    }
    agree({key: value for key, value in outputs.items() if "logit_gap" not in key}, got)


def test_gumbel_first_stage(gumbel_noise):
    """Decision D17: the figures are those of a random draw, which only stochastic_eval makes."""
    case = CASES["net2net/gumbel-first-stage"]
    model, (x, c) = build(case), image_and_condition(case)
    model.first_stage_model.quantize.stochastic_eval = True
    gumbel_noise(case["noise"]["fill"])
    quant_z, z_indices = model.encode_to_z(x)
    logits, target = model(x, c)
    decoded = model.decode_to_img(z_indices, quant_z.shape)
    got = {"quant_z": quant_z, "z_indices": z_indices, "logits": logits, "target": target, "decoded": decoded}
    agree(case["outputs"], got)
    model.first_stage_model.quantize.stochastic_eval = False
    assert torch.equal(*(model.encode_to_z(x)[1] for _ in range(2)))


def test_names_of_cases_are_all_used():
    others = {
        *("optimizer", "training", "pkeep-training-forward", "pkeep-zero-one-pass", "gumbel-first-stage"),
        *("log-images/unconditional", "log-images/depth", "log-images/segmentation"),
    }
    assert set(names("net2net", "")) == {*ENCODED, *(f"net2net/{name}" for name in others)}
    assert len(ENCODED) == 13


def test_optimizer_groups():
    case = CASES["net2net/optimizer"]
    model = get_obj_from_str(case["target"])(**case["kwargs"])
    model.learning_rate = case["learning_rate"]
    optimizer, stored = model.configure_optimizers(), case["outputs"]
    names_of = {id(parameter): name for name, parameter in model.transformer.named_parameters()}
    assert type(optimizer).__name__ == stored["class"]
    assert [optimizer.defaults["lr"], list(optimizer.defaults["betas"]), optimizer.defaults["eps"]] == [
        stored[key] for key in ("lr", "betas", "eps")
    ]
    for group, expected in zip(optimizer.param_groups, stored["groups"], strict=True):
        assert group["weight_decay"] == expected["weight_decay"]
        assert [names_of[id(p)] for p in group["params"]] == expected["names_in_order (under transformer.)"]
    assert len(names_of) == sum(len(group["params"]) for group in optimizer.param_groups)


class Batches(torch.utils.data.Dataset):
    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def trainer(tmp_path, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "accelerator": "cpu", "default_root_dir": tmp_path}
    return pl.Trainer(**(quiet | {"max_epochs": 1} | options))


def fit(model, batches, tmp_path, **options):
    losses = []

    class Losses(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, *_):
            losses.append(outputs["loss"].item())

    loader = torch.utils.data.DataLoader(Batches(batches), batch_size=None)
    trainer(tmp_path, callbacks=[Losses()], **options).fit(model, loader)
    return losses


def training_batches():
    return [
        {
            "image": torch.from_numpy(
                fill.fill(f"input:net2net/training/batch{step}/x", (2, 3, 32, 32), "image")
            ).permute(0, 2, 3, 1),
            "class_label": torch.from_numpy(fill.integers(f"input:net2net/training/batch{step}/c", (2,), 10)),
        }
        for step in range(4)
    ]


def test_training_through_the_trainer_is_the_published_trajectory(tmp_path):
    case = CASES["net2net/training"]
    model = build(case)
    model.learning_rate = case["learning_rate"]
    frozen = {name: value.clone() for name, value in model.first_stage_model.state_dict().items()}
    losses = fit(model, training_batches(), tmp_path)
    norms = {name: parameter.double().norm() for name, parameter in model.transformer.named_parameters()}
    got = {"losses": torch.tensor(losses), "norms_after": norms, "...": 1}
    agree(case["outputs"], got, atol=1e-4)
    assert all(torch.equal(value, frozen[name]) for name, value in model.first_stage_model.state_dict().items())
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, "decision D50: nothing trainable is left without a gradient"


def test_pkeep_replaces_what_the_transformer_reads_but_not_the_targets(monkeypatch):
    case = CASES["net2net/pkeep-training-forward"]
    model, (x, c) = build(case), image_and_condition(case)
    name = case["case"]

    def bernoulli(p):
        return torch.from_numpy((fill.fill(f"pkeep:{name}", p.shape, "unit") < p.numpy()).astype("float32"))

    def randint_like(z, high):
        return torch.from_numpy(fill.integers(f"prandom:{name}", z.shape, high))

    monkeypatch.setattr(torch, "bernoulli", bernoulli)
    monkeypatch.setattr(torch, "randint_like", randint_like)
    logits, target = model(x, c)
    agree(case["outputs"], {"logits": logits, "target": target})
    assert torch.equal(target, model.encode_to_z(x)[1])


def test_pkeep_zero_predicts_all_positions_at_once():
    """Decision D53: the published sequence without its trailing axis."""
    case = CASES["net2net/pkeep-zero-one-pass"]
    model, (x, c) = build(case), image_and_condition(case)
    z_indices, c_indices = model.encode_to_z(x)[1], model.encode_to_c(c)[1]
    known = z_indices[:, : case.get("known", 0)]
    sequence = model.sample(known, c_indices, steps=z_indices.shape[1] - known.shape[1])
    agree(case["outputs"], {"c_indices": c_indices, "sequence": sequence[:, :, None], "...": 1})
    with pytest.raises(ValueError, match="pkeep"):
        model.sample(z_indices[:, :1], c_indices, steps=4)


def test_log_images_of_an_unconditional_model():
    outputs = CASES["net2net/log-images/unconditional"]["outputs"]
    case = CASES["net2net/unconditional"]
    batch = {"image": inputs(case)["x"].permute(0, 2, 3, 1)}
    logged = build(case).log_images(batch, top_k=5)
    assert set(logged) == set(CASES["net2net/log-images/unconditional"]["keys"])
    agree(outputs, logged)


@pytest.mark.parametrize("key", ["depth", "segmentation"])
def test_log_images_with_a_decodable_condition(key):
    case, stored = CASES[f"net2net/{key}"], CASES[f"net2net/log-images/{key}"]
    tensors = inputs(case)
    batch = {"image": tensors["x"].permute(0, 2, 3, 1), key: tensors["c"].permute(0, 2, 3, 1)}
    logged = build(case).log_images(batch, top_k=5)
    assert set(logged) == set(stored["keys"])
    agree(stored["outputs"], logged)


@pytest.fixture
def class_model():
    return build(CASES["net2net/class"])


@pytest.fixture
def class_batch():
    tensors = inputs(CASES["net2net/class"])
    return {"image": tensors["x"].permute(0, 2, 3, 1), "class_label": tensors["c"]}


def test_log_images_of_a_class_model_has_no_conditioning(class_model, class_batch):
    """Decisions D54, D36 and D55: labels cannot be decoded, the default top-k exceeds the vocabulary, lr_interface."""
    logged = class_model.log_images(class_batch)
    assert set(logged) == {"inputs", "reconstructions", "samples_half", "samples_nopix", "samples_det"}
    with pytest.raises(NotImplementedError, match="lr_interface"):
        class_model.log_images(class_batch, lr_interface=True)


@pytest.fixture
def tokens(class_model, class_batch):
    x, c = class_model.get_xc(class_batch)
    return class_model.encode_to_z(x)[1], class_model.encode_to_c(c)[1]


def test_sampling_with_and_without_cache_gives_the_same_tokens(class_model, tokens, monkeypatch):
    z, c = tokens
    options = {"steps": 63, "sample": True, "top_k": 10, "top_p": 0.9, "temperature": 1.1}
    cached = class_model.sample(z[:, :1], c, generator=torch.Generator().manual_seed(3), **options)
    monkeypatch.delattr(GPT, "forward_cached")
    plain = class_model.sample(z[:, :1], c, generator=torch.Generator().manual_seed(3), **options)
    assert torch.equal(cached, plain) and torch.equal(cached[:, :1], z[:, :1])


def test_one_generator_per_row(class_model, tokens):
    """Decision D61: a row depends on its own generator alone."""
    z, c = tokens

    def draw(seeds, rows):
        generator = [torch.Generator().manual_seed(seed) for seed in seeds]
        return class_model.sample(z[rows, :0], c[rows], steps=20, sample=True, generator=generator)

    both = draw([1, 2], [0, 1])
    assert torch.equal(both[:1], draw([1], [0])) and torch.equal(both[1:], draw([2], [1]))


def test_callback_and_length_checks(class_model, tokens):
    z, c = tokens
    steps = []
    class_model.sample(z[:, :60], c, steps=4, callback=steps.append)
    assert steps == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="block_size 64"):
        class_model.sample(z[:, :60], c, steps=5)
    with pytest.raises(AssertionError, match="eval"):
        class_model.train().sample(z[:, :60], c, steps=4)


def test_stages_stay_frozen_and_in_eval_mode(class_model):
    class_model.train()
    assert class_model.transformer.training
    assert not any(module.training for module in class_model.first_stage_model.modules())
    assert not any(p.requires_grad for p in class_model.first_stage_model.parameters())
    class_model.first_stage_model.train()
    assert not class_model.first_stage_model.training
    assert pickle.loads(pickle.dumps(class_model)).first_stage_model.train(True).training is False


def test_first_stage_as_condition_is_registered_twice():
    """Decision D49: published checkpoints hold its tensors under both names."""
    model = build(CASES["net2net/first-stage-as-cond"])
    assert model.cond_stage_model is model.first_stage_model
    keys = set(model.state_dict())
    first = {key for key in keys if key.startswith("first_stage_model.")}
    assert {key.replace("first_stage", "cond_stage") for key in first} <= keys


def test_inputs_by_rank(class_model):
    assert class_model.get_input("a", {"a": torch.zeros(2, 4, 4, 3, dtype=torch.float64)}).dtype == torch.float32
    shapes = {(2, 4, 6, 3): (2, 3, 4, 6), (2, 4, 6): (2, 1, 4, 6), (2, 7): (2, 7), (2,): (2,)}
    for given, expected in shapes.items():
        assert class_model.get_input("a", {"a": torch.zeros(given)}).shape == expected


def test_downsample_cond_factor():
    """Decision D48: the name that the sampling scripts use."""
    case = CASES["net2net/depth"]
    model = build(case, downsample_cond_factor=0.5)
    c = inputs(case)["c"]
    expected = model.cond_stage_model.encode(c[:, :, ::2, ::2])[2][2].view(c.shape[0], -1)
    assert torch.equal(model.encode_to_c(c)[1], expected)


def test_schedule(tmp_path, class_batch):
    schedule = {"warm_up_steps": 0, "lr_start": 1.0, "lr_max": 1.0, "lr_min": 0.0, "max_decay_steps": 2}
    config = {"target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler", "params": schedule}
    model = build(CASES["net2net/class"], scheduler_config=config)
    model.learning_rate = 1e-2
    fit(model, [class_batch] * 2, tmp_path)
    assert model.lr_schedulers().get_last_lr() == [pytest.approx(0.0)] * 2
