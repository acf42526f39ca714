"""DataModuleFromConfig: loaders for what is configured, built once, with helpful errors."""

import pytest
import torch

from taming.data.datamodule import DataModuleFromConfig, WrappedDataset

DIGITS = {"target": "taming.data.digits.DigitsValidation", "params": {"size": 8}}


def test_only_configured_splits_have_loaders():
    data = DataModuleFromConfig(batch_size=4, validation=DIGITS, num_workers=0)
    data.setup()
    assert set(data.datasets) == set(data.dataset_configs) == {"validation"}
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape == (4, 8, 8, 3) and batch["class_label"].dtype == torch.int64
    assert batch["human_label"] == [str(label.item()) for label in batch["class_label"]]


def test_only_training_shuffles():
    data = DataModuleFromConfig(batch_size=355, train=DIGITS, validation=DIGITS, test=DIGITS, num_workers=0)
    data.setup()
    in_order = torch.as_tensor(data.datasets["train"].labels)
    labels = [
        next(iter(loader()))["class_label"]
        for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader)
    ]
    assert not torch.equal(labels[0], in_order) and torch.equal(labels[0].sort().values, in_order.sort().values)
    assert torch.equal(labels[1], in_order) and torch.equal(labels[2], in_order)


def test_the_last_incomplete_batch_is_kept():
    data = DataModuleFromConfig(batch_size=100, train=DIGITS, num_workers=0)
    data.setup()
    assert [len(batch["image"]) for batch in data.train_dataloader()] == [100, 100, 100, 55]


def test_data_sets_are_built_once():
    data = DataModuleFromConfig(batch_size=4, train=DIGITS)
    data.prepare_data()
    built = data.datasets["train"]
    data.setup("fit")
    data.setup()
    assert data.datasets["train"] is built


def test_wrap_hides_all_but_length_and_items():
    data = DataModuleFromConfig(batch_size=4, train=DIGITS, wrap=True)
    data.setup()
    wrapped = data.datasets["train"]
    assert isinstance(wrapped, WrappedDataset) and not hasattr(wrapped, "class_names")
    assert len(wrapped) == len(wrapped.data) and wrapped[3]["class_label"] == wrapped.data[3]["class_label"]


def test_workers_are_twice_the_batch_but_no_more_than_processors(monkeypatch):
    monkeypatch.setattr("taming.data.datamodule._processors", lambda: 6)
    assert DataModuleFromConfig(batch_size=2, train=DIGITS).num_workers == 4
    assert DataModuleFromConfig(batch_size=12, train=DIGITS).num_workers == 6
    assert DataModuleFromConfig(batch_size=12, train=DIGITS, num_workers=0).num_workers == 0


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="batch_size=0"):
        DataModuleFromConfig(batch_size=0, train=DIGITS)
    with pytest.raises(ValueError, match="at least one of train, validation and test"):
        DataModuleFromConfig(batch_size=1)
    (tmp_path / "empty.txt").write_text("\n")
    config = {
        "target": "taming.data.custom.CustomTrain",
        "params": {"size": 8, "training_images_list_file": str(tmp_path / "empty.txt")},
    }
    with pytest.raises(ValueError, match=r"empty\.txt"):
        DataModuleFromConfig(batch_size=1, train=config).setup()
