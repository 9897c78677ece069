"""Counters of a training run, saved with its state, and running figures."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from training.learning.dataset import Batch
from training.learning.objective import Outcome


@dataclass
class Progress:
    """The progress of a run; saved with the state."""

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    level: int = 0


@dataclass
class Recent:
    """Running figures over recent batches."""

    token_loss: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    glyph_loss: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    column_loss: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    hits: dict[str, deque[bool]] = field(default_factory=dict)
    level_hits: deque[bool] = field(default_factory=lambda: deque(maxlen=800))

    def add(self, batch: Batch, outcome: Outcome, level: int) -> None:
        """Count one batch."""
        self.token_loss.append(float(outcome.token_loss.detach()))
        self.glyph_loss.append(float(outcome.glyph_loss.detach()))
        self.column_loss.append(float(outcome.column_loss.detach()))
        rows = zip(
            batch.kinds,
            batch.families,
            batch.levels,
            outcome.caseless.tolist(),
            outcome.unaided.tolist(),
            strict=True,
        )
        for kind, family, of_level, hit, unaided in rows:
            name = "at_once" if unaided else f"real_{kind}" if family else kind
            self.hits.setdefault(name, deque(maxlen=600)).append(hit)
            if of_level == level and not unaided and not family:
                self.level_hits.append(hit)

    def summary(self) -> dict[str, float]:
        """Return mean losses and the exact match (ignoring case) of each kind."""
        figures = {
            "loss": sum(self.token_loss) / max(1, len(self.token_loss)),
            "glyph": sum(self.glyph_loss) / max(1, len(self.glyph_loss)),
            "column": sum(self.column_loss) / max(1, len(self.column_loss)),
        }
        return figures | {kind: sum(h) / len(h) for kind, h in sorted(self.hits.items())}
