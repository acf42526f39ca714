"""Which strategy a model gets; sharded training itself is tested with two processes in tests/distributed."""

import pytest
from tiny_configs import first_stage
from tiny_runs import TinyModel, TwoOptimizerModel

from taming.config import ConfigError
from taming.models.cond_transformer import Net2NetTransformer
from taming.training.sharding import ShardedStrategy, strategy_for


def transformer():
    gpt = {"vocab_size": 8, "block_size": 16, "n_layer": 1, "n_head": 1, "n_embd": 8}
    return Net2NetTransformer(
        {"target": "taming.modules.transformer.mingpt.GPT", "params": gpt},
        first_stage(resolution=8, n_embed=8),
        "__is_unconditional__",
    )


@pytest.mark.parametrize("name", ["auto", "ddp", "ddp_spawn", "ddp_find_unused_parameters_true"])
def test_a_strategy_is_what_was_asked_for(name):
    assert strategy_for(name, TinyModel()) == name


def test_two_optimizers_leave_parameters_unused():
    assert strategy_for("ddp", TwoOptimizerModel()) == "ddp_find_unused_parameters_true"


def test_transformers_are_sharded_and_nothing_else():
    model = transformer()
    assert isinstance(strategy_for("fsdp", model), ShardedStrategy)
    model.configure_model()  # by any other strategy: nothing happens
    assert type(model.transformer).__name__ == "GPT"
    with pytest.raises(ConfigError, match=r"strategy = fsdp: only transformers .* not TinyModel; use ddp"):
        strategy_for("fsdp", TinyModel())
