"""How long what users did is kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PrivacyConfig:
    """What docs/PRIVACY.md tells.

    Attributes:
        keep_days: after so many days from its arrival Kafka deletes what says something of users
            (clicks, late ones, dead letters, sequences), and the service its answers; 0 for ever.
            What is trained, served and resumed needs minutes of it; a state that was lost is built
            again from as much as is there.
    """

    keep_days: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.keep_days <= 36_500:
            raise ValueError(f"privacy.keep_days is {self.keep_days}: use 0 to 36500 days")
        if 0 < self.keep_days < 1 / 24:
            raise ValueError(
                f"privacy.keep_days is {self.keep_days}: at least an hour (0.042), since what is "
                "deleted before it is learnt is lost; 0 keeps everything"
            )
