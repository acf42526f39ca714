"""FID, Inception score, KID, precision and recall of folders of images, by torch-fidelity.

Samples are compared with a reference. What torch-fidelity computes of the reference is kept in a cache under a hash of
all that it depends on: the images' bytes, the network and its weights, and the package's version.
"""

import hashlib
import json
import logging
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import torch

from taming.config import ConfigError, get_obj_from_str
from taming.config_errors import suggestion
from taming.evaluation.image_sets import (
    ImageSet,
    NamedSet,
    check_name,
    find_images,
    find_reference,
    name_reference,
    shown,
)
from taming.reports import manifest_of, versions
from taming.util import sha256_hash

logger = logging.getLogger(__name__)

PACKAGE = "torch-fidelity"
INCEPTION = "inception-v3-compat"
DEFAULT_FEATURES = {"fid": INCEPTION, "isc": INCEPTION, "kid": INCEPTION, "prc": "vgg16"}
"""Metric -> the network that it was published with, and that torch-fidelity takes for it."""
PREPROCESSING = "images as they are, 8-bit RGB; the network resizes them as torch-fidelity has it"
ENOUGH = 10_000
"""Images below which FID is too biased to be compared with that of another number of images."""
CACHE = Path("~/.cache/taming/fidelity")

Reference = ImageSet | NamedSet


@dataclass(frozen=True, kw_only=True)
class FidelityOptions:
    """metrics: of fid, isc, kid and prc. features: a network that torch-fidelity knows, or the dotted name of a
    FeatureExtractorBase, for all metrics. weights: its weights in a file. cache_root: the cache's folder. save_cpu_ram:
    slower, with less memory. Everything else is as torch-fidelity has it. Raises ValueError for values out of range.
    """

    metrics: Sequence[str] = ("fid",)
    features: str | None = None
    weights: Path | None = None
    batch_size: int = 64
    cache_root: Path = CACHE
    kid_subset_size: int = 1000
    save_cpu_ram: bool = False

    def __post_init__(self) -> None:
        unknown = [metric for metric in self.metrics if metric not in DEFAULT_FEATURES]
        if unknown or not self.metrics:
            raise ValueError(f"metrics: {unknown} are none of {', '.join(DEFAULT_FEATURES)}")
        for name in ("batch_size", "kid_subset_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.weights is not None:
            _check_weights(Path(self.weights))
        if self.weights is not None and len(self.groups()) > 1:
            raise ValueError("--weights are those of one network, but prc takes another one: say which by --features")

    def groups(self) -> dict[str, list[str]]:
        """Networks -> the metrics that they are for."""
        groups: dict[str, list[str]] = {}
        for metric in self.metrics:
            groups.setdefault(self.features or DEFAULT_FEATURES[metric], []).append(metric)
        return groups

    @property
    def cache(self) -> Path:
        return Path(self.cache_root).expanduser()


def _check_weights(path: Path) -> None:
    """Raise ValueError for a file that holds more than weights: torch-fidelity would execute it."""
    if not path.is_file():
        raise FileNotFoundError(f"--weights {path}: no such file")
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"--weights {path}: damaged, or it holds more than weights; get the published file") from error


def evaluate(
    input1: Path,
    input2: str | Path,
    options: FidelityOptions,
    *,
    recursive: bool = False,
    name: str | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict[str, object]:
    """Compare the images of a folder with a reference (see `compare`): a report of the figures and what produced them.

    input2 is a folder, or the `name` that an earlier call gave to its reference. Raises what finding and comparing do.
    """
    if name is not None:
        check_name(name)
    samples = find_images(input1, recursive=recursive)
    reference = find_reference(input2, options.cache, recursive=recursive)
    logger.info("%d samples in %s, %d reference images in %s", len(samples), input1, len(reference), input2)
    warnings = _warnings(samples, reference)
    for warning in warnings:
        logger.warning("note: %s", warning)
    figures = compare(samples, reference, options, device=device, progress=progress)
    if name is not None:
        name_reference(name, reference, options.cache)
    return {
        "metrics": figures,
        "input1": samples.describe(),
        "input2": reference.describe(),
        "options": {**asdict(options), "recursive": recursive, "device": str(device) if _on_cuda(device) else "cpu"},
        "torch_fidelity": {
            features: _defaults() | _arguments(options, features, metrics)
            for features, metrics in options.groups().items()
        },
        "preprocessing": PREPROCESSING,
        "warnings": warnings,
        "versions": versions(PACKAGE),
        "sampling": manifest_of(samples.folder),
    }


def _warnings(samples: ImageSet, reference: Reference) -> list[str]:
    """What makes the figures hard to compare with others."""
    found = []
    for name, images in (("input1", samples), ("input2", reference)):
        if len(images) < ENOUGH:
            found.append(f"{name} has only {len(images)} images: below {ENOUGH} FID depends much on their number")
        if images.has_lossy_files:
            found.append(f"{name} has JPEG files: their compression changes the figures")
    if samples.size != reference.size:
        found.append(f"input1 has images of {shown(samples.size)}, input2 of {shown(reference.size)}")
    return found


def compare(
    samples: ImageSet,
    reference: Reference,
    options: FidelityOptions,
    *,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict[str, float]:
    """The metrics under torch-fidelity's names, of samples compared with a reference.

    precision is the share of the samples that lie among the reference images, recall the share of the reference that
    lies among the samples. torch-fidelity computes on CUDA or the CPU. Raises ValueError for too few images, OSError
    where weights cannot be downloaded.
    """
    package = _package()
    _check_counts(samples, reference, options)
    figures: dict[str, float] = {}
    for features, metrics in options.groups().items():
        _register(features)
        try:
            figures |= package.calculate_metrics(
                input1=samples,
                input2=reference,
                input2_cache_name=_cache_name(reference, options, features),
                cuda=_on_cuda(device),
                verbose=progress,
                **_arguments(options, features, metrics),
            )
        except URLError as error:
            raise OSError(
                f"the weights of {features} could not be downloaded ({error.reason}); get them as torch-fidelity's "
                "documentation says and name the file with --weights"
            ) from error
    return figures


def _on_cuda(device: torch.device | str) -> bool:
    return torch.device(device).type == "cuda"


def _arguments(options: FidelityOptions, features: str, metrics: Sequence[str]) -> dict[str, object]:
    """Of `calculate_metrics`, but for the images and the device."""
    return {
        **{metric: metric in metrics for metric in DEFAULT_FEATURES},
        **{name: getattr(options, name) for name in ("batch_size", "kid_subset_size", "save_cpu_ram")},
        "feature_extractor": features,
        "feature_extractor_weights_path": None if options.weights is None else str(options.weights),
        "cache": True,
        "cache_root": str(options.cache),
    }


def _check_counts(samples: ImageSet, reference: Reference, options: FidelityOptions) -> None:
    fewest = min(len(samples), len(reference))
    if "fid" in options.metrics and fewest < 2:
        raise ValueError("FID needs at least two images on either side, there is only one")
    if "kid" in options.metrics and fewest < options.kid_subset_size:
        raise ValueError(
            f"--kid_subset_size {options.kid_subset_size}: there are only {fewest} images on one side, "
            "of which KID draws subsets of this size; make it smaller"
        )
    splits, neighbours = (_defaults()[name] for name in ("isc_splits", "prc_neighborhood"))
    if "isc" in options.metrics and len(samples) < splits:
        raise ValueError(f"the Inception score needs at least {splits} samples, there are {len(samples)}")
    if "prc" in options.metrics and fewest <= neighbours:
        raise ValueError(f"precision and recall need more than {neighbours} images on either side, not {fewest}")


def _register(features: str) -> None:
    """Make a network of the user's own known to torch-fidelity, under its dotted name.

    Raises ConfigError for a name that cannot be imported, ValueError for what is no FeatureExtractorBase.
    """
    from torch_fidelity import FeatureExtractorBase, register_feature_extractor
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY as KNOWN

    if features in KNOWN:
        return
    if "." not in features:
        raise ConfigError(f"--features {features}: torch-fidelity has no such network{suggestion(features, KNOWN)}")
    extractor = get_obj_from_str(features)
    if not (isinstance(extractor, type) and issubclass(extractor, FeatureExtractorBase)):
        raise ValueError(f"--features {features}: is no subclass of torch_fidelity.FeatureExtractorBase")
    register_feature_extractor(features, extractor)


def _cache_name(reference: Reference, options: FidelityOptions, features: str) -> str:
    """The hash of everything that the statistics of a reference depend on."""
    facts = {
        "images": reference.digest,
        "features": features,
        "weights": None if options.weights is None else sha256_hash(options.weights),
        PACKAGE: version(PACKAGE),
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _package() -> ModuleType:
    try:
        import torch_fidelity
    except ImportError as error:
        raise ImportError(
            f"FID and the like need a package: pip install 'taming-transformers[eval]' ({PACKAGE})"
        ) from error
    return torch_fidelity


def _defaults() -> Mapping[str, object]:
    from torch_fidelity.defaults import DEFAULTS

    return dict(DEFAULTS)
