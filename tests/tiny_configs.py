"""The smallest first stage that is a VQGAN, for tests that need one but not its quality."""


def ddconfig(**changes):
    """Encoder and decoder of 8 channels for 16 pixels and a factor of 2."""
    config = {
        "double_z": False,
        "z_channels": 4,
        "resolution": 16,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 8,
        "ch_mult": [1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    return config | changes


def first_stage(*, resolution, n_embed, **params):
    """Target config of a VQModel that is not trained."""
    return {
        "target": "taming.models.vqgan.VQModel",
        "params": {
            "ddconfig": ddconfig(resolution=resolution),
            "lossconfig": {"target": "torch.nn.Identity"},
            "n_embed": n_embed,
            "embed_dim": 4,
            **params,
        },
    }
