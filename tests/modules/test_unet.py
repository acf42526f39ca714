"""The U-Nets and small decoders against the published implementation."""

import pytest
import torch
from parity import agree, build, cases, grad_norms, inputs, names

from taming.config import ConfigError, instantiate_from_config
from taming.modules.diffusionmodules.model import Model, SimpleDecoder, UpsampleDecoder, VUNet

CASES = cases("modules")
SMALL = {"ch": 8, "out_ch": 3, "num_res_blocks": 1, "attn_resolutions": [], "in_channels": 3, "resolution": 16}


@pytest.mark.parametrize("name", names("modules", "model/", "vunet", "simple-decoder", "upsample-decoder"))
def test_figures(name):
    case = CASES[name]
    module = build(case)
    assert list(module.state_dict()) == list(case["state_dict"])  # in this order: optimizer states are positional
    out = module(*inputs(case).values())
    agree(case["outputs"], {"out": out})
    out.mean().backward()
    unused = [key for key, norm in grad_norms(module, case["state_dict"]).items() if norm is None]
    assert all(".temb_proj." in key for key in unused)


def test_vunet_takes_timesteps():
    """Decision D13."""
    torch.manual_seed(0)
    unet = VUNet(**SMALL, ch_mult=(1, 2), c_channels=2, z_channels=4, use_timestep=True, unknown="ignored")
    x, z = torch.randn(1, 2, 16, 16), torch.randn(1, 4, 8, 8)
    early, late = (unet(x, z, torch.tensor([t])) for t in (0, 900))
    assert early.shape == (1, 3, 16, 16) and not torch.allclose(early, late)
    with pytest.raises(ValueError, match="timesteps"):
        unet(x, z)


def test_configs_may_hold_keywords_that_have_no_effect_where_the_published_class_ignored_them():
    params = SMALL | {"ch_mult": [1, 2], "double_z": False}
    target = "taming.modules.diffusionmodules.model."
    vunet = {"target": f"{target}VUNet", "params": params | {"c_channels": 2, "z_channels": 4}}
    assert isinstance(instantiate_from_config(vunet), VUNet)
    with pytest.raises(ConfigError, match="double_z"):
        instantiate_from_config({"target": f"{target}Model", "params": params})


def test_timesteps_matter_per_sample():
    torch.manual_seed(0)
    unet = Model(**SMALL, ch_mult=(1, 2)).eval()
    x = torch.randn(1, 3, 16, 16).expand(2, -1, -1, -1)
    out = unet(x, torch.tensor([3, 700]))
    assert torch.allclose(out[:1], unet(x[:1], torch.tensor([3])), atol=1e-5)
    assert not torch.allclose(out[0], out[1])


@pytest.mark.parametrize(("ch_mult", "num_res_blocks"), [((1,), 0), ((1,), 2), ((2, 1, 4), 1), ((2, 1, 4), 3)])
def test_skip_widths_fit_whatever_the_multipliers(ch_mult, num_res_blocks):
    options = SMALL | {"num_res_blocks": num_res_blocks, "attn_resolutions": [4]}
    unet = Model(**options, ch_mult=ch_mult, use_timestep=False)
    assert unet(torch.randn(1, 3, 8, 12)).shape == (1, 3, 8, 12)


def test_size_that_the_levels_do_not_divide():
    unet = Model(**SMALL, ch_mult=(1, 1, 1), use_timestep=False)
    with pytest.raises(ValueError, match="18 x 16: height and width must be multiples of 4"):
        unet(torch.randn(1, 3, 18, 16))


def test_decoders_scale_by_their_levels():
    x = torch.randn(1, 8, 4, 6)
    assert SimpleDecoder(8, 3, "ignored", also="ignored")(x).shape == (1, 3, 8, 12)
    assert UpsampleDecoder(8, 3, ch=8, num_res_blocks=2, resolution=64, ch_mult=(4, 2, 1))(x).shape == (1, 3, 16, 24)
    assert UpsampleDecoder(8, 3, 8, 1, 64)(x).shape == (1, 3, 8, 12)
