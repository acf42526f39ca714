"""The published models (Esser et al. 2021; Rombach et al. 2022): names, run folders, configs, addresses.

Nothing is read or downloaded here: see `taming.pretrained`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

from taming.config_errors import nearest

PAGE = "https://github.com/CompVis/taming-transformers"
LATENT_DIFFUSION_PAGE = "https://github.com/CompVis/latent-diffusion"
CHECKPOINT = "checkpoints/last.ckpt"
CONFIG = "configs/model.yaml"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a model: its path in the run folder, a direct address, and its SHA-256 where that is known.

    A `.zip` is unpacked: the one checkpoint in it becomes `checkpoints/last.ckpt`.
    """

    path: str
    url: str
    sha256: str | None = None


@dataclass(frozen=True)
class PublishedModel:
    """What is known of a model without its files.

    config() is its target config; a config that comes with the files wins. It is None where the architecture is not
    known well enough. `page` is where to look for files without a direct address.
    """

    name: str
    folder: str
    description: str
    config: Callable[[], dict] | None
    kind: str
    files: tuple[RemoteFile, ...] = ()
    page: str = PAGE
    notes: str = ""
    aliases: tuple[str, ...] = ()


def stage(target: str, **params) -> dict:
    return {"target": target, "params": params}


def vqgan(
    n_embed: int,
    *,
    embed_dim: int = 256,
    channels: int = 3,
    ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
    attn_resolutions: Sequence[int] = (16,),
    target: str = "VQModel",
    **params,
) -> dict:
    """Target config of a first stage for 256 pixels, by default f16; `params` are added to those of the model."""
    ddconfig = {
        "double_z": False,
        "z_channels": embed_dim,
        "resolution": 256,
        "in_channels": channels,
        "out_ch": channels,
        "ch": 128,
        "ch_mult": list(ch_mult),
        "num_res_blocks": 2,
        "attn_resolutions": list(attn_resolutions),
        "dropout": 0.0,
    }
    sizes = {"embed_dim": embed_dim, "n_embed": n_embed, "ddconfig": ddconfig}
    loss = {"lossconfig": {"target": "taming.modules.losses.DummyLoss"}}
    return stage(f"taming.models.vqgan.{target}", **sizes, **loss, **params)


def gumbel_vqgan() -> dict:
    steps = {"warm_up_steps": 0, "max_decay_steps": 1000001}
    schedule = stage("taming.lr_scheduler.LambdaWarmUpCosineScheduler", **steps, lr_start=0.9, lr_max=0.9, lr_min=1e-6)
    shape = {"ch_mult": (1, 1, 2, 4), "attn_resolutions": (32,)}
    training = {"kl_weight": 1e-8, "monitor": "val/rec_loss", "temperature_scheduler_config": schedule}
    return vqgan(8192, target="GumbelVQ", **shape, **training)


def label_map_vqgan(n_labels: int) -> dict:
    return vqgan(1024, channels=n_labels, target="VQSegmentationModel", n_labels=n_labels, image_key="segmentation")


def depth_vqgan() -> dict:
    return vqgan(1024, channels=1, image_key="depth")


coordinates = partial(stage, "taming.modules.misc.coord.CoordStage", n_embed=1024, down_factor=16)
class_labels = partial(stage, "taming.modules.util.Labelator", n_classes=1000)
boxes = partial(stage, "taming.models.dummy_cond_stage.DummyCondStage", conditional_key="objects_bbox")


def transformer(
    n_embed: int,
    block_size: int,
    n_layer: int,
    n_embd: int,
    cond_stage: Callable[[], dict | str] = lambda: "__is_unconditional__",
    *,
    cond_key: str = "image",
    n_head: int = 16,
    **dropouts: float,
) -> dict:
    """Target config of a transformer over an f16 VQGAN with n_embed codes."""
    sizes = {"vocab_size": n_embed, "block_size": block_size, "n_layer": n_layer, "n_head": n_head, "n_embd": n_embd}
    return stage(
        "taming.models.cond_transformer.Net2NetTransformer",
        cond_stage_key=cond_key,
        transformer_config=stage("taming.modules.transformer.mingpt.GPT", **sizes, **dropouts),
        first_stage_config=vqgan(n_embed),
        cond_stage_config=cond_stage(),
    )


def _share(share: str, **paths: str) -> tuple[RemoteFile, ...]:
    """Files of a public Heibox folder: what they become in the run folder -> their paths on the server."""
    address = "https://heibox.uni-heidelberg.de/d/{}/files/?p={}&dl=1"
    places = {"config": CONFIG, "checkpoint": CHECKPOINT}
    return tuple(RemoteFile(places[key], address.format(share, quote(path, safe=""))) for key, path in paths.items())


def _zip(name: str) -> tuple[RemoteFile, ...]:
    return (RemoteFile(f"{name}.zip", f"https://ommer-lab.com/files/latent-diffusion/{name}.zip"),)


_first_stage = partial(PublishedModel, kind="first stage")
_latent_diffusion = partial(_first_stage, page=LATENT_DIFFUSION_PAGE)
_transformer = partial(PublishedModel, kind="transformer")
_on_server = {"config": "/configs/model.yaml", "checkpoint": "/ckpts/last.ckpt"}
_f8 = {"embed_dim": 4, "ch_mult": (1, 2, 2, 4), "attn_resolutions": (32,)}
_of_label_maps = partial(transformer, cond_key="segmentation")
_of_boxes = partial(
    *(transformer, 8192, 348),
    cond_stage=boxes,
    cond_key="objects_bbox",
    embd_pdrop=0.1,
    resid_pdrop=0.1,
    attn_pdrop=0.1,
)

MODELS = (
    _first_stage(
        *("vqgan_imagenet_f16_1024", "vqgan_imagenet_f16_1024", "f16, 1024 codes, ImageNet"),
        partial(vqgan, 1024),
        files=_share("8088892a516d4e3baf92", **_on_server),
    ),
    _first_stage(
        *("vqgan_imagenet_f16_16384", "vqgan_imagenet_f16_16384", "f16, 16384 codes, ImageNet"),
        partial(vqgan, 16384),
        files=_share("a7530b09fed84f80a887", **_on_server),
    ),
    _first_stage(
        *("vqgan_gumbel_f8", "vqgan_gumbel_f8", "f8, 8192 codes by Gumbel softmax, OpenImages"),
        gumbel_vqgan,
        files=_share("2e5662443a6b4307b470", **_on_server),
        aliases=("vqgan_gumbel_openimages_f8",),
    ),
    _latent_diffusion(
        *("vqgan_openimages_f4_8192", "vq-f4", "f4, 8192 codes of 3 dimensions, OpenImages"),
        partial(vqgan, 8192, embed_dim=3, ch_mult=(1, 2, 4), attn_resolutions=()),
        files=_zip("vq-f4"),
    ),
    _latent_diffusion(
        *("vqgan_openimages_f8_256", "vq-f8-n256", "f8, 256 codes of 4 dimensions, OpenImages"),
        partial(vqgan, 256, **_f8),
        files=_zip("vq-f8-n256"),
    ),
    _latent_diffusion(
        *("vqgan_openimages_f8_16384", "vq-f8", "f8, 16384 codes of 4 dimensions, OpenImages"),
        partial(vqgan, 16384, **_f8),
        files=_zip("vq-f8"),
    ),
    _latent_diffusion(
        *("vqgan_openimages_f16_16384", "vq-f16", "f16, 16384 codes of 8 dimensions, OpenImages"),
        partial(vqgan, 16384, embed_dim=8),
        files=_zip("vq-f16"),
    ),
    _first_stage(
        *("faceshq_vqgan", "2020-11-09T13-33-36_faceshq_vqgan", "f16, 1024 codes, CelebA-HQ and FFHQ"),
        partial(vqgan, 1024),
    ),
    _first_stage(
        *("imagenet_vqgan", "2020-09-23T17-56-33_imagenet_vqgan", "f16, 1024 codes, ImageNet (for drin_transformer)"),
        partial(vqgan, 1024),
    ),
    _first_stage(
        *("imagenetdepth_vqgan", "2020-11-03T15-34-24_imagenetdepth_vqgan", "f16, 1024 codes, depth maps of ImageNet"),
        depth_vqgan,
    ),
    _first_stage(
        *("coco_vqgan", "coco_vqgan", "f16, 8192 codes, COCO (for scene models)"),
        partial(vqgan, 8192),
        notes="published as coco_epoch117.ckpt",
    ),
    _first_stage(
        *("coco_oi_vqgan", "coco_oi_vqgan", "f16, 8192 codes, COCO and Open Images (for scene models)"),
        partial(vqgan, 8192),
        notes="published as coco_oi_epoch12.ckpt",
    ),
    _transformer(
        *("s_flckr_transformer", "2020-11-09T13-31-51_sflckr", "landscapes (S-FLCKR) from label maps"),
        partial(_of_label_maps, 1024, 512, 24, 1024, partial(label_map_vqgan, 182)),
        files=_share(
            "73487ab6e5314cb5adba",
            config="/configs/2020-11-09T13-31-51-project.yaml",
            checkpoint="/checkpoints/last.ckpt",
        ),
        notes="4.26 GB",
    ),
    _transformer(
        *("cin_transformer", "2021-04-03T19-39-50_cin_transformer", "ImageNet by class, 1.4 billion parameters"),
        partial(transformer, 16384, 256, 48, 1536, class_labels, cond_key="class_label", n_head=24),
        notes="the number of heads is uncertain: use the config that comes with the checkpoint",
    ),
    _transformer(
        *("ffhq_transformer", "2021-04-23T18-19-01_ffhq_transformer", "faces of FFHQ, 801 million parameters"),
        partial(transformer, 1024, 256, 24, 1664),
    ),
    _transformer(
        *("celebahq_transformer", "2021-04-23T18-11-19_celebahq_transformer", "faces of CelebA-HQ, as large"),
        partial(transformer, 1024, 256, 24, 1664),
    ),
    _transformer(
        *("faceshq_transformer", "2020-11-13T21-41-45_faceshq_transformer", "faces from coordinates"),
        partial(transformer, 1024, 512, 24, 1024, coordinates, cond_key="coord"),
    ),
    _transformer(
        *("drin_transformer", "2020-11-20T12-54-32_drin_transformer", "ImageNet from depth maps"),
        partial(transformer, 1024, 512, 24, 1024, depth_vqgan, cond_key="depth"),
    ),
    _transformer(
        *("coco_transformer", "2021-01-20T16-04-20_coco_transformer", "COCO from label maps, 651 million parameters"),
        partial(_of_label_maps, 8192, 512, 32, 1280, partial(label_map_vqgan, 183)),
    ),
    _transformer(
        *("ade20k_transformer", "2020-11-20T21-45-44_ade20k_transformer", "ADE20K from label maps"),
        partial(_of_label_maps, 4096, 512, 28, 1024, partial(label_map_vqgan, 151), resid_pdrop=0.1, attn_pdrop=0.1),
    ),
    _transformer(
        *("coco_scene_transformer", "coco_scene_images_transformer", "COCO from bounding boxes"),
        partial(_of_boxes, 40, 1408),
        notes="published after 30 and after 60 epochs",
    ),
    _transformer(
        *("open_images_scene_transformer", "open_images_scene_images_transformer", "Open Images from bounding boxes"),
        partial(_of_boxes, 36, 1536),
    ),
    _transformer(
        *("open_images_scene_transformer_distilled", "open_images_scene_images_transformer_distilled"),
        *("Open Images from bounding boxes, 125 million parameters", None),
        notes="its architecture is known from its config only; needs 4 GB of memory for 256 pixels",
    ),
)


def published(name: str) -> PublishedModel:
    """The model of this name, alias or run folder. Raises ValueError, with the nearest name, if there is none."""
    by_name = models_by_name()
    if name not in by_name:
        near = nearest(name, list(by_name))
        hint = f"; did you mean {near}?" if near else f"; known are {', '.join(model.name for model in MODELS)}"
        raise ValueError(f"'{name}' is no published model{hint}")
    return by_name[name]


def models_by_name() -> dict[str, PublishedModel]:
    """All models by their names, aliases and run folders."""
    return {name: model for model in MODELS for name in (model.folder, *model.aliases, model.name)}
