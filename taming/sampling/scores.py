"""Scores by which rejection sampling chooses."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import ResNet101_Weights, resnet101

from taming.config import ConfigError, get_obj_from_str
from taming.models.cond_transformer import Net2NetTransformer
from taming.sampling.plan import Scorer

RESNET101 = "resnet101"


class ClassifierScore:
    """How sure an ImageNet classifier is of the wanted class: its log-probability, which unlike the probability still
    tells images apart that it is quite sure of. `preprocess` is applied to images in [0, 1].
    """

    def __init__(self, classifier: nn.Module, preprocess: Callable[[Tensor], Tensor], name: str) -> None:
        self.classifier = classifier.eval()
        self.preprocess = preprocess
        self.name = name

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = self.classifier(self.preprocess((images.float() + 1) / 2))
        return logits.float().log_softmax(dim=1).gather(1, labels[:, None])[:, 0]


def load_score(name: str, model: Net2NetTransformer) -> Scorer:
    """The score that `--classifier` names: "resnet101", or a function of the user's own by its dotted name.

    resnet101 has torchvision's first weights for it, which are downloaded once. Raises ValueError if it does not know
    the classes of the model, ConfigError for a name that cannot be imported.
    """
    if name != RESNET101:
        if "." not in name:
            raise ConfigError(f"--classifier {name}: neither {RESNET101} nor the dotted name of a function")
        return get_obj_from_str(name)
    weights = ResNet101_Weights.IMAGENET1K_V1
    n_known, n_classes = len(weights.meta["categories"]), getattr(model.cond_stage_model, "n_classes", 0)
    if n_classes != n_known:
        raise ValueError(
            f"--classifier {name}: knows the {n_known} classes of ImageNet, this model has {n_classes}; "
            "give the dotted name of a function of your own"
        )
    return ClassifierScore(resnet101(weights=weights).to(model.device), weights.transforms(), name)
