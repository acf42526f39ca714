"""Streams are dealt to ranks and workers without loss, and go on exactly where they were."""

from itertools import chain

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from taming.data.datamodule import DataModuleFromConfig, WrappedDataset
from taming.data.streams import Position, Stream, StreamLoader
from taming.training.exact_resume import ExactResume

COUNTS = st.integers(1, 5)


class Numbers(Stream):
    """The numbers 1000 * epoch + stream, + n_streams, ...: each stream has its own."""

    def __init__(self, epoch_size=22, on_error="raise", faulty=()):
        super().__init__("tests.Numbers", epoch_size=epoch_size, on_error=on_error)
        self.faulty = faulty

    def items(self, part):
        end = 6 if part.total is None else part.total
        for index in range(part.seen, end):
            if index in self.faulty:
                self.faults.note(ValueError(f"item {index} of stream {part.stream}"))
            yield 1000 * part.epoch + part.stream + part.n_streams * index


def values(loader):
    return [batch.tolist() for batch in loader]


def loader(dataset=None, batch_size=4, workers=0):
    dataset = Numbers() if dataset is None else dataset
    return StreamLoader(dataset, batch_size=batch_size, num_workers=workers, persistent_workers=workers > 0)


def delivered(position, n_workers, size):
    """What PyTorch makes of the workers' parts: (stream, number in it) by batch."""
    parts = [position.part(worker, n_workers, size) for worker in range(n_workers)]
    left = [list(range(part.seen, part.total)) for part in parts]
    batches = []
    while any(left):
        worker = len(batches) % n_workers
        taken, left[worker] = left[worker][: position.batch_size], left[worker][position.batch_size :]
        batches.append([(parts[worker].stream, number) for number in taken])
    return batches


@given(seen=st.integers(0, 40), batch=COUNTS, rank=COUNTS, n_workers=COUNTS, size=st.integers(0, 60))
def test_the_rest_of_an_epoch_is_its_end_whatever_was_seen(seen, batch, rank, n_workers, size):
    whole = delivered(Position(3, 0, batch, rank, 6), n_workers, size)
    assert [len(part) for part in whole[:-1]] == [batch] * (len(whole) - 1)
    assert sum(map(len, whole)) == size == len({item for part in whole for item in part})
    seen = min(seen, len(whole))
    assert delivered(Position(3, seen, batch, rank, 6), n_workers, size) == whole[seen:]


@pytest.mark.parametrize("workers", [0, 3])
def test_epochs_follow_each_other_and_have_their_length(workers):
    batches = loader(workers=workers)
    assert len(batches) == 6
    epochs = [values(batches) for _ in range(2)]
    for number, epoch in enumerate(epochs):
        assert [len(batch) for batch in epoch] == [4] * 5 + [2]
        flat = list(chain.from_iterable(epoch))
        assert len(set(flat)) == 22 and all(value // 1000 == number for value in flat)


@pytest.mark.parametrize("workers", [0, 3])
def test_a_loader_with_a_state_goes_on_exactly(workers):
    uninterrupted = loader(workers=workers)
    epochs = [values(uninterrupted) for _ in range(3)]
    interrupted = loader(workers=workers)
    values(interrupted)
    batches = iter(interrupted)
    begun = [next(batches).tolist() for _ in range(4)]
    resumed = loader(workers=workers)
    resumed.load_state_dict(interrupted.state_dict())
    assert begun + values(resumed) == epochs[1]
    assert values(resumed) == epochs[2]


def test_at_the_end_of_an_epoch_the_next_one_is_next():
    whole = loader()
    batches = iter(whole)
    for _ in range(len(whole)):  # as Lightning does, which does not ask for more
        next(batches)
    resumed = loader()
    resumed.load_state_dict(whole.state_dict())
    assert values(resumed)[0][0] == 1000


def test_an_epoch_that_is_left_early_is_not_continued():
    batches = loader()
    next(iter(batches))
    assert next(iter(batches)).tolist() == [1000, 1001, 1002, 1003]


def test_without_size_there_is_no_length_and_one_rank(monkeypatch):
    endless = loader(Numbers(epoch_size=None), workers=2)
    with pytest.raises(TypeError):
        len(endless)
    assert sorted(chain.from_iterable(values(endless))) == list(range(12))
    monkeypatch.setattr("taming.data.streams.ranks", lambda: (1, 2))
    with pytest.raises(ValueError, match="2 processes train together; give epoch_size"):
        iter(endless)


def test_ranks_share_an_epoch(monkeypatch):
    found = []
    for rank in range(2):
        monkeypatch.setattr("taming.data.streams.ranks", lambda rank=rank: (rank, 2))
        assert len(loader()) == 3
        found += chain.from_iterable(values(loader(workers=2)))
    assert len(set(found)) == len(found) == 22


def test_a_plain_loader_gives_all_of_an_epoch():
    plain = DataLoader(Numbers(), batch_size=None, num_workers=3)
    assert len({int(value) for value in plain}) == 22


@pytest.mark.parametrize("workers", [0, 2])
def test_faults_are_counted_over_all_workers(caplog, workers):
    batches = loader(Numbers(on_error="skip", faulty=(1, 2)), batch_size=1, workers=workers)
    values(batches)
    expected = 2 * max(workers, 1)
    assert f"tests.Numbers: {expected} faults were skipped in this epoch" in caplog.text
    with pytest.raises(ValueError, match="item 1 of stream 0"):
        values(loader(Numbers(faulty=(1,))))


def test_mistakes():
    with pytest.raises(ValueError, match="epoch_size is 0"):
        Numbers(epoch_size=0)
    with pytest.raises(ValueError, match="on_error is 'x'"):
        Numbers(on_error="x")


class Collector(pl.LightningModule):
    """A model that only notes what it is trained on."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch.tolist())
        return self.layer(batch[:, None].float()).mean() * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, max_steps, checkpoint=None):
    target = {"target": f"{__name__}.Numbers"}
    data = DataModuleFromConfig(batch_size=4, train=target, num_workers=0, wrap=True)
    model = Collector()
    trainer = pl.Trainer(
        max_steps=max_steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, callbacks=[ExactResume()],
    )  # fmt: skip
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    assert not isinstance(data.datasets["train"], WrappedDataset)
    trainer.save_checkpoint(folder / f"{max_steps}.ckpt")
    return model.seen


@pytest.mark.parametrize("steps", [4, 6, 9], ids=["in an epoch", "at its end", "in the second"])
def test_runs_that_resume_see_what_they_would_have_seen(tmp_path, steps):
    uninterrupted = loader()
    expected = [batch for _ in range(3) for batch in values(uninterrupted)]
    assert fit(tmp_path, steps) + fit(tmp_path, 14, tmp_path / f"{steps}.ckpt") == expected[:14]
