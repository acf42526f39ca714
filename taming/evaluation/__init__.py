"""How good reconstructions and samples are: measures of tensors, of folders of images, and whole jobs."""

from taming.evaluation.measures import (
    Classifier,
    Encoded,
    accuracy,
    class_entropy,
    codebook_usage,
    complete_halves,
    encode,
    entropy,
    gmsd,
    perplexity,
    psnr,
    ssim,
    token_nll,
    train_classifier,
)

__all__ = [
    "Classifier",
    "Encoded",
    "accuracy",
    "class_entropy",
    "codebook_usage",
    "complete_halves",
    "encode",
    "entropy",
    "gmsd",
    "perplexity",
    "psnr",
    "ssim",
    "token_nll",
    "train_classifier",
]
