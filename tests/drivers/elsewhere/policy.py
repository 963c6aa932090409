"""Generation takes new weights every few batches only, as iterated off-policy training does."""

from dataclasses import dataclass

from harness.config import Config
from harness.errors import UserError
from harness.lag.policy import StalenessPolicy


@dataclass(frozen=True)
class EveryFew(StalenessPolicy):
    period: int = 2

    def version_for(self, batch: int) -> int:
        return self.updates_per_step * self.period * (batch // self.period)

    def accept(self, batch: int, version: int) -> bool:
        return version == self.version_for(batch)

    def check(self, config: Config) -> None:
        super().check(config)
        if self.period < 1:
            raise UserError(f"lag.period={self.period}: expected at least 1 (batches)")
