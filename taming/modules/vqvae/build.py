"""From the `quantizer_config` of a first stage to its quantizer."""

from collections.abc import Mapping

from omegaconf import OmegaConf, open_dict

from taming.config import ConfigError, config_error, get_obj_from_str, instantiate_from_config
from taming.instantiation import Keywords
from taming.modules.vqvae.base import Quantizer


def build_quantizer(config: Mapping, n_embed: int, embed_dim: int, **options) -> Quantizer:
    """The quantizer that a target config describes, with the model's settings where the config gives none.

    They are handed over under the names that the quantizer's parameters have. Raises ConfigError if it ends up with
    another number or dimension of codes than the model.
    """
    settings = {"n_embed": n_embed, "n_e": n_embed}
    settings |= dict.fromkeys(("embed_dim", "e_dim", "embedding_dim", "num_hiddens"), embed_dim)
    config = _completed(config, settings | options)
    quantizer = instantiate_from_config(config, where="quantizer_config")
    for ours, theirs, name in ((n_embed, quantizer.n_e, "n_embed"), (embed_dim, quantizer.e_dim, "embed_dim")):
        if ours != theirs:
            problem = f"this quantizer's {name} is {theirs}, the model's {ours}: set the model's to {theirs}"
            raise config_error(config, "params", problem, where="quantizer_config")
    return quantizer


def _completed(config: Mapping, settings: Mapping) -> Mapping:
    """The config with those of `settings` that its target takes and its params do not set."""
    completed = config.copy() if OmegaConf.is_config(config) else OmegaConf.create(dict(config))
    try:
        accepted = Keywords.of(get_obj_from_str(str(config.get("target")))).names
    except ConfigError:  # instantiating it says so, with the key
        return config
    with open_dict(completed):
        completed.params = {
            **{name: value for name, value in settings.items() if name in accepted},
            **(config.get("params") or {}),
        }
    return completed
