"""Names that other people's configs, checkpoints and scripts hold: they never change."""

import importlib
import inspect

import pytest

PUBLIC = {
    "taming.util": (
        "download md5_hash get_ckpt_path URL_MAP CKPT_MAP MD5_MAP get_obj_from_str instantiate_from_config "
        "load_checkpoint retrieve KeyNotFoundError"
    ),
    "taming.lr_scheduler": "LambdaWarmUpCosineScheduler",
    "taming.modules.util": "count_params ActNorm AbstractEncoder Labelator SOSProvider",
    "taming.modules.misc.coord": "CoordStage",
    "taming.modules.diffusionmodules.model": (
        "get_timestep_embedding nonlinearity Normalize Upsample Downsample ResnetBlock AttnBlock Model Encoder Decoder "
        "VUNet SimpleDecoder UpsampleDecoder"
    ),
    "taming.modules.vqvae.quantize": "VectorQuantizer VectorQuantizer2 GumbelQuantize EmbeddingEMA EMAVectorQuantizer",
    "taming.modules.discriminator.model": "weights_init NLayerDiscriminator",
    "taming.modules.losses": "DummyLoss",
    "taming.modules.losses.vqperceptual": (
        "DummyLoss adopt_weight hinge_d_loss vanilla_d_loss VQLPIPSWithDiscriminator VQLPIPS"
    ),
    "taming.modules.losses.segmentation": "BCELoss BCELossWithQuant",
    "taming.modules.losses.lpips": "LPIPS ScalingLayer NetLinLayer vgg16 normalize_tensor spatial_average",
    "taming.modules.transformer.mingpt": (
        "GPTConfig GPT1Config CausalSelfAttention Block GPT DummyGPT CodeGPT top_k_logits top_k_top_p_filtering sample "
        "sample_with_past KMeans"
    ),
    "taming.modules.transformer.permuter": (
        "AbstractPermuter Identity Subsample mortonify ZCurve SpiralOut SpiralIn Random AlternateParsing"
    ),
    "taming.models.vqgan": "VQModel VQSegmentationModel VQNoDiscModel GumbelVQ EMAVQ",
    "taming.models.cond_transformer": "Net2NetTransformer disabled_train",
    "taming.models.dummy_cond_stage": "DummyCondStage",
    "taming.data.base": "ImagePaths NumpyPaths ConcatDatasetWithIndex",
    "taming.data.utils": "custom_collate quadratic_crop is_prepared mark_prepared unpack",
    "taming.data.custom": "CustomBase CustomTrain CustomTest",
    "taming.data.faceshq": (
        "FacesBase CelebAHQTrain CelebAHQValidation FFHQTrain FFHQValidation FacesHQTrain FacesHQValidation"
    ),
    "taming.data.imagenet": (
        "ImageNetBase ImageNetTrain ImageNetValidation ImageNetTrainWithDepth ImageNetValidationWithDepth "
        "BaseWithDepth RINTrainWithDepth RINValidationWithDepth DRINExamples ImageNetScale ImageNetEdges "
        "get_preprocessor imscale rgba_to_depth str_to_indices give_synsets_from_indices ImagePaths download retrieve"
    ),
    "taming.data.sflckr": "SegmentationBase Examples",
    "taming.data.coco": (
        "SegmentationBase Examples CocoBase CocoImagesAndCaptionsTrain CocoImagesAndCaptionsValidation"
    ),
    "taming.data.ade20k": "SegmentationBase Examples ADE20kBase ADE20kTrain ADE20kValidation",
    "taming.data.annotated_objects_dataset": "AnnotatedObjectsDataset",
    "taming.data.annotated_objects_coco": (
        "AnnotatedObjectsCoco COCO_PATH_STRUCTURE load_image_descriptions load_categories load_annotations"
    ),
    "taming.data.annotated_objects_open_images": (
        "AnnotatedObjectsOpenImages OPEN_IMAGES_STRUCTURE load_annotations load_categories load_image_ids"
    ),
    "taming.data.open_images_helper": ("open_images_unify_categories_for_coco top_300_classes_plus_coco_compatibility"),
    "taming.data.conditional_builder.objects_bbox": "ObjectsBoundingBoxConditionalBuilder",
    "taming.data.conditional_builder.objects_center_points": "ObjectsCenterPointsConditionalBuilder",
    "taming.data.conditional_builder.utils": (
        "COLOR_PALETTE BLACK GRAY_75 GRAY_50 GRAY_25 WHITE FULL_CROP intersection_area horizontally_flip_bbox "
        "absolute_bbox pad_list filter_annotations rescale_annotations additional_parameters_string get_plot_font_size "
        "get_circle_size load_object_from_string"
    ),
    "taming.data.image_transforms": (
        "convert_pil_to_tensor CenterCropReturnCoordinates RandomCrop1dReturnCoordinates "
        "Random2dCropReturnCoordinates RandomHorizontalFlipReturn"
    ),
    "main": (
        "instantiate_from_config get_obj_from_str get_parser nondefault_trainer_args WrappedDataset "
        "DataModuleFromConfig SetupCallback ImageLogger LearningRateMonitor"
    ),
}
PARAMETERS = {
    "taming.models.vqgan.VQModel": (
        "ddconfig lossconfig n_embed embed_dim ckpt_path ignore_keys image_key colorize_nlabels monitor remap "
        "sane_index_shape beta legacy"
    ),
    "taming.models.cond_transformer.Net2NetTransformer": (
        "transformer_config first_stage_config cond_stage_config permuter_config ckpt_path ignore_keys first_stage_key "
        "cond_stage_key downsample_cond_size pkeep sos_token unconditional downsample_cond_factor"
    ),
    "taming.modules.vqvae.quantize.VectorQuantizer2": "n_e e_dim beta remap unknown_index sane_index_shape legacy",
    "taming.modules.vqvae.quantize.EMAVectorQuantizer": "n_embed embedding_dim beta decay eps remap unknown_index",
    "taming.modules.transformer.mingpt.GPT": (
        "vocab_size block_size n_layer n_head n_embd embd_pdrop resid_pdrop attn_pdrop n_unmasked"
    ),
    "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator": (
        "disc_start codebook_weight pixelloss_weight disc_num_layers disc_in_channels disc_factor disc_weight "
        "perceptual_weight use_actnorm disc_conditional disc_ndf disc_loss"
    ),
    "taming.modules.transformer.mingpt.CodeGPT": (
        "vocab_size block_size in_channels n_layer n_head n_embd embd_pdrop resid_pdrop attn_pdrop n_unmasked"
    ),
    "taming.modules.transformer.mingpt.KMeans": "ncluster nc niter",
    "taming.modules.transformer.permuter.ZCurve": "H W",
    "taming.modules.misc.coord.CoordStage": "n_embed down_factor",
    "taming.models.dummy_cond_stage.DummyCondStage": "conditional_key",
    "taming.data.conditional_builder.objects_bbox.ObjectsBoundingBoxConditionalBuilder": (
        "no_object_classes no_max_objects no_tokens encode_crop use_group_parameter use_additional_parameters"
    ),
    "taming.modules.util.Labelator": "n_classes quantize_interface",
    "taming.modules.util.SOSProvider": "sos_token quantize_interface",
    "taming.data.custom.CustomTrain": "size training_images_list_file",
    "taming.data.custom.CustomTest": "size test_images_list_file",
    "main.DataModuleFromConfig": "batch_size train validation test wrap num_workers",
    "main.ImageLogger": "batch_frequency max_images clamp increase_log_steps",
    "main.SetupCallback": "resume now logdir ckptdir cfgdir config lightning_config",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names(module):
    found = importlib.import_module(module)
    assert not [name for name in PUBLIC[module].split() if not hasattr(found, name)]


@pytest.mark.parametrize("path", PARAMETERS)
def test_parameters_in_their_order(path):
    module, name = path.rsplit(".", 1)
    parameters = list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    expected = PARAMETERS[path].split()
    assert parameters[: len(expected)] == expected
