"""Images out of tar files as WebDataset lays them out: for data that does not fit, or is too slow, as single files.

Nothing is unpacked to disk. A sample is the run of a tar file's members that have a name in common up to the first dot:
`n01/cat.jpg`, `n01/cat.cls`.
"""

import io
import itertools
import json
import os
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from taming.data._augment import SeededTransform, albumentations, square
from taming.data._io import read_rgb, to_float
from taming.data.base import check_shape
from taming.data.faults import FAULTS, MAX_IN_A_ROW, dotted_name
from taming.data.streams import Part, Stream

IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")

END = bytes(2 * tarfile.BLOCKSIZE)

Sample = dict[str, Any]
"""Members of a sample by the end of their names, as bytes; `__key__` and `__url__` as strings."""


class WebImages(Stream):
    """Images of tar files: `image` float32 (h, w, 3) in [-1, 1], `labels`, and `file_path_`, `<tar file>:<sample>`.

    `urls` is a path or address, or several, with numbers in braces: `data/train-{000000..000146}.tar`; what webdataset
    opens will do, `pipe:` and `https:` too. `size`, `random_crop` and `draft` are as in `ImagePaths`; `flip` mirrors
    half of the images, `exif` turns them upright. `labels` maps keys of items to the end of the name of the member that
    holds the value: `cls` is a whole number, `json` anything, all else text. `image_keys` are those of images.

    Tar files are dealt to the ranks and their workers (samples are, where there are too few files). `shuffle` samples
    are held in memory to mix them, and the order of the files changes by epoch; 0 keeps their order. `epoch_size` is
    the number of samples of all ranks in an epoch, whatever the files hold, which each worker reads again and again;
    several ranks need it. Without it an epoch is every sample once. All that is drawn follows from `seed`, epoch and
    place: with `StreamLoader`, which `DataModuleFromConfig` takes, a run that resumes goes on where it was.

    `on_error="skip"` leaves out samples that cannot be read, and the rest of such tar files, and counts both. Raises
    ImportError without webdataset, ValueError for impossible parameters; iterators raise OSError and ValueError.
    """

    def __init__(
        self,
        urls: str | os.PathLike | Sequence[str],
        size: int | None = None,
        random_crop: bool = False,
        *,
        flip: bool = False,
        shuffle: int = 1000,
        seed: int = 0,
        epoch_size: int | None = None,
        labels: Mapping[str, str] | None = None,
        image_keys: Sequence[str] = IMAGE_KEYS,
        exif: bool = False,
        draft: bool = False,
        on_error: str = "raise",
    ) -> None:
        super().__init__(dotted_name(type(self)), epoch_size=epoch_size, on_error=on_error)
        self.urls = self._expand(urls)
        self.size = size if size is not None and size > 0 else None
        if self.size is None and (random_crop or draft):
            raise ValueError(f"{self.name}: random_crop and draft need a size, which is {size}")
        self.shuffle = shuffle
        self.seed = seed
        self.labels = dict(labels or {})
        self.image_keys = tuple(image_keys)
        self.exif = exif
        self.draft = draft
        self.preprocessor = self._pipeline(random_crop, flip)

    def _expand(self, urls: str | os.PathLike | Sequence[str]) -> list[str]:
        several = [urls] if isinstance(urls, str | os.PathLike) else list(urls)
        expand = _webdataset(self.name).shardlists.expand_urls
        expanded = [url for text in several for url in expand(os.fspath(text))]
        if not expanded:
            raise ValueError(f"{self.name}: urls is empty; give the tar files")
        return expanded

    def _pipeline(self, random_crop: bool, flip: bool) -> SeededTransform:
        steps = []
        if self.size is not None:
            steps += square(self.size, random_crop=random_crop)
        if flip:
            steps.append(albumentations.HorizontalFlip(p=0.5))
        return SeededTransform(albumentations.Compose(steps))

    def items(self, part: Part) -> Iterator[dict[str, Any]]:
        """The samples of one worker, cropped, from the first that has not been seen; see `Stream`."""
        count, failures = part.seen, 0
        if count == part.total:
            return
        for place, sample in itertools.islice(enumerate(self._samples(part)), part.seen, None):
            try:
                item = self.read(sample, f"{self.seed} {part.epoch} {part.stream} {place}")
            except FAULTS as error:
                self.faults.note(error)
                failures += 1
                if failures == MAX_IN_A_ROW:
                    raise ValueError(f"{self.name}: {failures} samples in a row cannot be read: {error}") from error
                continue
            yield item
            count, failures = count + 1, 0
            if count == part.total:
                return

    def problems(self, limit: int | None = None) -> Iterator[str]:
        """One line for each sample that cannot be read, of the first `limit`, and each tar file; see `Stream`."""
        unreadable: list[Exception] = []
        for sample in itertools.islice(self.stored(note=unreadable.append), limit):
            while unreadable:
                yield str(unreadable.pop(0))
            try:
                self.read(sample, seed="")
            except FAULTS as error:
                yield str(error)
        yield from map(str, unreadable)

    def read(self, sample: Sample, seed: str) -> dict[str, Any]:
        """The item of a sample, its crop decided by `seed`. Raises OSError or ValueError if it cannot be made."""
        where = f"{sample['__url__']}:{sample['__key__']}"
        image_key = next((key for key in self.image_keys if key in sample), None)
        if image_key is None:
            raise ValueError(f"{self.name}: {where} has no image; looked for {', '.join(self.image_keys)}")
        file, draft = io.BytesIO(sample[image_key]), self.size if self.draft else None
        pixels = read_rgb(file, self.name, self.exif, draft=draft, name=f"{where}.{image_key}")
        check_shape(pixels, self.size, path=where, dataset=self.name)
        crop = self.preprocessor.seeded(random.Random(seed).getrandbits(32), image=pixels)["image"]
        labels = {key: self._label(sample, end, where) for key, end in self.labels.items()}
        return {"image": to_float(crop), **labels, "file_path_": where}

    def _label(self, sample: Sample, end: str, where: str) -> Any:
        if end not in sample:
            raise ValueError(f"{self.name}: {where} has no member {end}, which labels ask for")
        try:
            text = sample[end].decode("utf-8")
            return int(text) if end == "cls" else json.loads(text) if end == "json" else text
        except ValueError as error:
            raise ValueError(f"{self.name}: {where}.{end} cannot be read: {error}") from error

    def _samples(self, part: Part) -> Iterator[Sample]:
        """The samples of a stream in order, without end if there is an `epoch_size`."""
        samples = itertools.chain.from_iterable(
            self._one_pass(part, number) for number in (itertools.count() if self.epoch_size else (0,))
        )
        draws = random.Random(f"{self.seed} {part.epoch} {part.stream}")
        return _mixed(samples, self.shuffle, draws) if self.shuffle else samples

    def _one_pass(self, part: Part, number: int) -> Iterator[Sample]:
        urls = list(self.urls)
        if self.shuffle:  # all streams deal out the same order
            random.Random(f"{self.seed} {part.epoch} {number}").shuffle(urls)
        if len(urls) >= part.n_streams:
            samples = self.stored(urls[part.stream :: part.n_streams])
        else:
            samples = itertools.islice(self.stored(urls), part.stream, None, part.n_streams)
        empty = True
        for sample in samples:
            empty = False
            yield sample
        if empty and self.epoch_size is not None:
            raise ValueError(f"{self.name}: there are no samples for worker {part.stream} in {', '.join(urls)}")

    def stored(self, urls: Iterable[str] | None = None, note: Callable[[Exception], None] | None = None) -> Iterator:
        """The samples of tar files, by default all, as they are stored; `note` is told of files that cannot be read."""
        read = _webdataset(self.name).tariterators.tarfile_samples
        for url in self.urls if urls is None else urls:
            try:
                yield from read([{"url": url}])
                _check_end(url)
            except (OSError, ValueError, EOFError, tarfile.TarError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else error
                kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
                problem = kind(f"{self.name}: cannot read tar file {url}: {' '.join(str(reason).split())}")
                problem.__cause__ = error
                (note or self.faults.note)(problem)


def _mixed(samples: Iterator[Sample], size: int, draws: random.Random) -> Iterator[Sample]:
    """The samples in another order: each comes from a pool of `size` that the next one then joins."""
    pool = list(itertools.islice(samples, size))
    for sample in samples:
        place = draws.randrange(size)
        yield pool[place]
        pool[place] = sample
    draws.shuffle(pool)
    yield from pool


def _check_end(url: str) -> None:
    """Raise OSError for a local file without the zeros that end a tar file: tarfile takes the cut for the end."""
    if url.endswith(".tar") and os.path.isfile(url):
        with open(url, "rb") as file:
            file.seek(-len(END), os.SEEK_END)
            if file.read() != END:
                raise OSError("its end is missing; copy or download it again")


def _webdataset(name: str) -> Any:
    try:
        import webdataset
    except ImportError as error:
        raise ImportError(
            f"{name} needs a package: pip install 'taming-transformers[webdataset]' (webdataset)"
        ) from error
    return webdataset
