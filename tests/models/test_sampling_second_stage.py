"""Net2NetTransformer.sample against the plain loop it stands for, guidance, and what cannot be sampled or trained."""

import pytest
import torch
from parity import build, cases, inputs
from torch.nn import functional as F

from taming.config import get_obj_from_str

CASES = cases("net2net")
NULL = 12
PKEEP_0 = "net2net/pkeep-zero-one-pass"


def make(name, gpt=None, **changes):
    """A case's model in eval mode, with its weights; `gpt` changes its transformer, so that no figure holds."""
    case = {key: value for key, value in CASES[name].items() if key not in ("state_dict", "parameters")}
    transformer = case["kwargs"]["transformer_config"]
    transformer = transformer | {"params": transformer["params"] | (gpt or {})}
    return build(case, transformer_config=transformer, **changes).eval()


def codes(model, name):
    """Image and conditioning tokens of the case's inputs."""
    tensors = inputs(CASES[name])
    return model.encode_to_z(tensors["x"])[1], model.encode_to_c(tensors.get("c", tensors["x"]))[1]


@torch.no_grad()
def plain_sample(model, x, c, steps, scale=1.0):
    """The definition: everything again at every step."""
    for _ in range(steps):
        logits = model.transformer(torch.cat((c, x), dim=1))[0][:, -1]
        if scale != 1.0:
            null = model.transformer(torch.cat((torch.full_like(c, NULL), x), dim=1))[0][:, -1]
            logits = null + scale * (logits - null)
        x = torch.cat((x, logits.argmax(dim=-1, keepdim=True)), dim=1)
    return x


@pytest.mark.parametrize("n_unmasked", [0, 1, 9])
def test_cached_sampling_from_before_the_end_of_the_unmasked_prefix(n_unmasked):
    """The cache begins where it has seen all positions that see each other."""
    model = make("net2net/class", {"n_unmasked": n_unmasked})
    z, c = codes(model, "net2net/class")
    assert torch.equal(model.sample(z[:, :2], c, steps=62), plain_sample(model, z[:, :2], c, 62))


def test_the_prefix_of_a_checkpoint_counts():
    """Decision D34: its stored masks may say more than the config."""
    model = make("net2net/class")
    mask = torch.tril(torch.ones(64, 64))
    mask[:20, :20] = 1
    masks = {f"blocks.{i}.attn.mask": mask[None, None] for i in range(2)}
    model.transformer.load_state_dict(model.transformer.state_dict() | masks)
    z, c = codes(model, "net2net/class")
    assert torch.equal(model.sample(z[:, :0], c, steps=30), plain_sample(model, z[:, :0], c, 30))


def test_only_codes_of_the_first_stage_are_drawn():
    """Of a vocabulary that conditioning or the null token needs more of."""
    for name, known, length in (("net2net/class", 0, 64), (PKEEP_0, 3, 61)):
        model = make(name, {"vocab_size": 500})
        z, c = codes(model, name)
        tokens = model.sample(z[:, :known], c, steps=length, sample=True)
        assert tokens.max() < 40
        assert model.sample(z[:, :known], c, steps=length).max() < 40


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 3.0])
@pytest.mark.parametrize("name", ["net2net/class", "net2net/coord", "net2net/depth"])
def test_guidance(name, scale):
    model = make(name, null_token=NULL)
    z, c = codes(model, name)
    steps = 20
    guided = model.sample(z[:, :3], c, steps=steps, guidance_scale=scale)
    assert torch.equal(guided, plain_sample(model, z[:, :3], c, steps, scale))
    assert model.sample(z[:, :3], c, steps=0, guidance_scale=scale).shape == (2, 3)


def test_guidance_of_all_positions_at_once():
    model = make(PKEEP_0, null_token=NULL)
    z, c = codes(model, PKEEP_0)

    def logits_given(c):
        return model.transformer(torch.cat((c, z[:, :5], c[:, 5:-1]), dim=1))[0][:, c.shape[1] - 1 :]

    null = logits_given(torch.full_like(c, NULL))
    expected = (null + 2.0 * (logits_given(c) - null)).argmax(dim=-1)
    assert torch.equal(model.sample(z[:, :5], c, steps=59, guidance_scale=2.0), expected)


def test_a_scale_of_0_is_no_conditioning_and_1_costs_nothing(monkeypatch):
    model = make("net2net/class", null_token=NULL)
    z, c = codes(model, "net2net/class")

    def draw(c, **options):
        return model.sample(z[:, :0], c, steps=20, sample=True, generator=torch.Generator().manual_seed(1), **options)

    assert torch.equal(draw(c, guidance_scale=0.0), draw(model.null_condition(c)))
    rows = []
    read = model.transformer.forward_cached
    monkeypatch.setattr(
        model.transformer, "forward_cached", lambda idx, cache: rows.append(len(idx)) or read(idx, cache)
    )
    assert torch.equal(draw(c, guidance_scale=1.0), draw(c))
    assert set(rows) == {2}


def test_guided_rows_depend_on_their_own_generator():
    model = make("net2net/class", null_token=NULL)
    z, c = codes(model, "net2net/class")

    def draw(seeds, rows):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        options = {"steps": 20, "sample": True, "generator": generators, "guidance_scale": 2.0, "top_k": 10}
        return model.sample(z[rows, :0], c[rows], **options)

    both = draw([1, 2], [0, 1])
    assert torch.equal(both, torch.cat((draw([1], [0]), draw([2], [1]))))


def test_rows_of_one_pass_depend_on_their_own_generator():
    model = make(PKEEP_0)
    z, c = codes(model, PKEEP_0)
    z, c = z.repeat(2, 1), torch.cat((c, c.flip(1)))

    def draw(seeds, rows):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return model.sample(z[rows, :4], c[rows], steps=60, sample=True, generator=generators)

    assert torch.equal(draw([1, 2], [0, 1]), torch.cat((draw([1], [0]), draw([2], [1]))))


def test_the_null_condition():
    model = make("net2net/class", null_token=NULL)
    c = torch.zeros(2, 7, dtype=torch.int32)
    assert torch.equal(model.null_condition(c), torch.full((2, 7), NULL, dtype=torch.int32))
    z, c = codes(model, "net2net/class")
    for use in (lambda model: model.null_condition(c), lambda model: model.sample(z, c, 0, guidance_scale=2.0)):
        with pytest.raises(ValueError, match=r"no null_token.* train it with cond_drop_prob and null_token"):
            use(make("net2net/class"))


def conditions_read(model, c, monkeypatch, passes=1):
    """The conditioning tokens (passes * b, l) that the transformer reads in forward passes with c (b, l)."""
    seen, read = [], model.transformer.forward
    monkeypatch.setattr(model.transformer, "forward", lambda idx: seen.append(idx[:, : c.shape[1]]) or read(idx))
    for _ in range(passes):
        model.predict(torch.zeros(len(c), 64, dtype=torch.int64), c)
    return torch.cat(seen)


def test_training_drops_whole_conditions(monkeypatch):
    model = make("net2net/depth", null_token=NULL, cond_drop_prob=0.3)
    c = torch.arange(50 * 64).reshape(50, 64) % 7
    torch.manual_seed(0)
    read = conditions_read(model.train(), c, monkeypatch, passes=10)
    dropped = (read == NULL).all(dim=1)
    assert torch.equal(read[~dropped], c.repeat(10, 1)[~dropped]), "all tokens of a sample or none"
    assert 0.2 < dropped.float().mean() < 0.4
    assert not (conditions_read(model.eval(), c, monkeypatch) == NULL).all(dim=1).any(), "in training only"


def test_dropping_changes_no_other_random_number():
    """The published streams, of pkeep and of what comes after a step, stay as they are while it is off."""
    name = "net2net/pkeep-training-forward"
    z, c = codes(make(name), name)

    def state_after(model, c=c):
        torch.manual_seed(0)
        logits = model.train().predict(z, c)
        return logits, torch.get_rng_state()

    logits, state = state_after(make(name))
    torch.manual_seed(0)
    torch.bernoulli(torch.ones(z.shape))
    torch.randint_like(z, 40)
    assert torch.equal(torch.get_rng_state(), state)
    with_token, same_state = state_after(make(name, null_token=NULL))
    assert torch.equal(with_token, logits) and torch.equal(same_state, state)
    dropping, other_state = state_after(make(name, null_token=NULL, cond_drop_prob=1.0))
    _, other = state_after(make(name, null_token=NULL, cond_drop_prob=1e-9))
    assert torch.equal(other_state, other) and not torch.equal(other_state, state)
    without_condition, _ = state_after(make(name), torch.full_like(c, NULL))
    assert torch.equal(without_condition, dropping), "the same pkeep noise"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"cond_drop_prob": 0.1}, "cond_drop_prob=0.1 needs null_token, the token from 0 to 39"),
        ({"cond_drop_prob": 1.1, "null_token": NULL}, r"cond_drop_prob=1.1 is no probability: .* \[0, 1\]"),
        ({"cond_drop_prob": -0.1, "null_token": NULL}, "cond_drop_prob=-0.1 is no probability"),
        ({"cond_drop_prob": 0.1, "null_token": 40}, "null_token=40 is outside the transformer's vocabulary, 0 to 39"),
        ({"null_token": -1}, "null_token=-1 is outside the transformer's vocabulary"),
        ({"null_token": 9}, r"null_token=9 is the label of a class: take one from 10 \(n_classes\) on"),
        (
            {"cond_drop_prob": 0.1, "null_token": NULL, "cond_stage_config": "__is_unconditional__"},
            "the model is unconditional, there is nothing to drop",
        ),
    ],
)
def test_what_cannot_be_dropped(changes, problem):
    case = CASES["net2net/class"]
    with pytest.raises(ValueError, match=problem) as error:
        get_obj_from_str(case["target"])(**(case["kwargs"] | changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature(temperature):
    model = make("net2net/class")
    z, c = codes(model, "net2net/class")
    with pytest.raises(ValueError, match="temperature must be positive"):
        model.sample(z, c, steps=0, temperature=temperature)


def test_too_many_tokens_name_all_three_numbers():
    model = make("net2net/class", {"block_size": 63})
    z, c = codes(model, "net2net/class")
    message = "1 conditioning and 64 image tokens do not fit into block_size 63: raise transformer_config.params.block"
    for use in (lambda: model.predict(z, c), lambda: model.sample(z[:, :60], c, steps=4)):
        with pytest.raises(ValueError, match=message):
            use()
    model = make(PKEEP_0, {"block_size": 126})
    z, c = codes(model, PKEEP_0)
    with pytest.raises(ValueError, match="64 conditioning and 64 image tokens do not fit into block_size 126"):
        model.sample(z, c, steps=0)


def test_predict_is_the_second_half_of_forward():
    model = make("net2net/permuter-spiral")
    x, c = inputs(CASES["net2net/permuter-spiral"]).values()
    logits, target = model(x, c)
    z, c_indices = codes(model, "net2net/permuter-spiral")
    assert torch.equal(target, z) and torch.equal(logits, model.predict(z, c_indices))
    batch = {"image": x.permute(0, 2, 3, 1), "class_label": c}
    assert torch.equal(model.shared_step(batch, 0), F.cross_entropy(logits.flatten(0, 1), target.flatten()))
