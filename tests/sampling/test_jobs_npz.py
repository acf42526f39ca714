"""The archive that FID tools read."""

import numpy as np
import pytest
from PIL import Image
from tiny_transformers import tiny_model

from taming.images import save_png
from taming.sampling import writers
from taming.sampling.jobs import check_npz, run_job, save_npz
from taming.sampling.options import SamplingOptions
from taming.sampling.plan import plan_job
from taming.shards import Shard

OPTIONS = {"num_samples": 3, "seed": 1, "batch_size": 4}


def test_it_holds_the_files_in_order_with_their_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "PENDING_WRITES", 2)
    job = plan_job(tiny_model(), tmp_path, SamplingOptions(**OPTIONS), classes="3,0")
    folder = run_job(job, progress=False)
    assert save_npz(job, tmp_path / "all.npz")
    with np.load(tmp_path / "all.npz") as archive:
        assert set(archive) == {"arr_0", "arr_1"}
        images, labels = archive["arr_0"], archive["arr_1"]
    assert images.shape == (6, 8, 8, 3) and images.dtype == np.uint8
    assert labels.tolist() == [3, 3, 3, 0, 0, 0] and labels.dtype == np.int64
    files = [folder / str(label) / f"{index:06}.png" for label in (3, 0) for index in range(3)]
    assert np.array_equal(images, np.stack([np.asarray(Image.open(file)) for file in files]))
    assert {path.name for path in tmp_path.iterdir()} == {"samples", "all.npz"}


def test_the_last_process_writes_it(tmp_path, caplog):
    model, path = tiny_model("__is_unconditional__"), tmp_path / "all.npz"
    written = []
    for index in range(2):
        job = plan_job(model, tmp_path, SamplingOptions(shard=Shard(index, 2), **OPTIONS))
        run_job(job, progress=False)
        written.append(save_npz(job, path))
        assert path.exists() == bool(index)
    assert written == [False, True] and "1 samples are still missing" in caplog.text
    with np.load(path) as archive:
        assert archive["arr_0"].shape == (3, 8, 8, 3) and "arr_1" not in archive


def test_images_of_another_size_are_named(tmp_path):
    files = [tmp_path / name for name in ("a.png", "b.png")]
    for size, file in enumerate(files, start=4):
        save_png(file, np.zeros((size, size, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"b\.png: is \(5, 5, 3\), but .*a\.png is \(4, 4, 3\)"):
        writers.write_npz(tmp_path / "all.npz", files)
    assert sorted(tmp_path.iterdir()) == files


def test_where_it_cannot_be_written_is_known_before(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        check_npz(tmp_path / "nowhere" / "all.npz")
    with pytest.raises(ValueError, match=r"ends with \.npz"):
        check_npz(tmp_path / "all.zip")
    check_npz(tmp_path / "all.npz")
