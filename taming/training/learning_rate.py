"""How large the learning rate is: the published rule, or the number in the config."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LearningRateRule:
    """The base rate, times the number of examples behind one optimizer step on one node if it is to be `scaled`.

    base: `model.base_learning_rate`. batch_size: examples per device. devices: those of one node. accumulate: batches
    per optimizer step in the first epoch.
    """

    base: float
    batch_size: int
    devices: int
    accumulate: int
    scaled: bool = True

    @property
    def rate(self) -> float:
        return self.accumulate * self.devices * self.batch_size * self.base if self.scaled else self.base

    def __str__(self) -> str:
        """The rate and how it came about."""
        base = f"{self.base:.2e} (base_learning_rate)"
        if not self.scaled:
            return f"{self.rate:.2e} = {base}, not scaled"
        factors = f"{self.accumulate} (accumulate_grad_batches) * {self.devices} (devices)"
        return f"{self.rate:.2e} = {factors} * {self.batch_size} (batch_size) * {base}"
