"""Record: what a checkpoint says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..common.errors import EarthSSLError
from ..fields.grid import LatLonGrid
from ..fields.normalisation import Statistics
from ..fields.splits import Splits
from ..model.encoder import ENCODINGS, EncoderConfig
from .migration import FORMAT, FORMAT_VERSION

PLAIN = (
    "step_days", "fingerprint", "seed", "steps", "config", "licence", "source", "versions", "health", "extra", "task"
)  # fmt: skip


@dataclass(frozen=True)
class Record:
    """What a checkpoint says of itself.

    Attributes:
        encoder: Shape of the encoder.
        variables: Canonical names it has weights for, with `units` and `step_days` between time steps.
        units: Of each variable.
        step_days: Median spacing of the time steps, days.
        grid: Where the cells lie.
        statistics: Climatology and scale that its inputs are normalised with.
        splits: The blocks of time of its pretraining.
        fingerprint: Of the training store.
        seed, steps: Of the training.
        config: Everything that was configured.
        licence: Of the data and hence of the weights.
        source: Where the data came from.
        versions: Of the libraries.
        health: As measured at the end.
        extra: Anything more: split proof, history, duration, probe scores.
        task: What a fine-tuned encoder was tuned for: kind (regression, classification or field), targets, head,
            parent, …; None for a pretrained one.
        stamp_s: How long after a month begins its steps are stamped, s, as the golden input shows; None where steps are
            no months. Not part of the JSON.
    """

    encoder: EncoderConfig
    variables: tuple[str, ...]
    units: tuple[str, ...]
    step_days: float
    grid: LatLonGrid
    statistics: Statistics
    splits: Splits
    fingerprint: str
    seed: int
    steps: int
    config: dict[str, Any]
    licence: str
    source: str
    versions: dict[str, str]
    health: dict[str, float]
    extra: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] | None = None
    stamp_s: int | None = field(default=None, compare=False)

    @property
    def synthetic(self) -> bool:
        """Whether it was trained on a planet of our own: what no place on Earth has may be right there."""
        return "synthetic" in f"{self.source} {self.licence}".lower()

    @property
    def trainings(self) -> list[dict[str, Any]]:
        """Source, splits and planet's seed (or None) of every data set the encoder was trained on, the latest last.

        Those of the checkpoints it started from count, and data sets beside home; but not sets of another world than
        home's that are of home's kind, as the free run of a climate model beside a reanalysis: home's data, of which
        users of the encoder have more, share no history with them.
        """
        extra, home = self.extra, {"source": self.source, "planet_seed": self.extra.get("planet_seed")}
        made = [*extra.get("ancestors", []), {**home, "splits": self.splits.to_json()}]
        for own in extra.get("data_sets", [])[1:]:
            if own["world"] != "home" and ("planet" in own["source"]) == ("planet" in self.source):
                continue
            made.append({name: own.get(name) for name in ("source", "planet_seed", "splits")})
        return made

    def to_json(self) -> dict[str, Any]:
        """Return all but the arrays of the statistics as plain JSON."""
        start = self.encoder.token_start
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "encoder": self.encoder.to_json(),
            "variables": list(self.variables),
            "units": list(self.units),
            "grid": self.grid.to_json(),
            "statistics": self.statistics.to_json(),
            "splits": self.splits.to_json(),
            **{name: getattr(self, name) for name in PLAIN},
            # Among `extra`: readers that know of no choice read the weights all the same.
            "extra": self.extra if start == ENCODINGS else {**self.extra, "token_start": start},
        }

    @classmethod
    def from_json(cls, record: dict[str, Any], arrays: dict[str, Tensor], where: object) -> Record:
        """Return the record that the JSON of the present version and the arrays of the statistics describe.

        Raises:
            EarthSSLError: If it lacks a field, or one contradicts another.
        """
        try:
            kind = record["statistics"]
            extra = dict(record["extra"])
            start = extra.pop("token_start", ENCODINGS)
            encoder = {**record["encoder"], "patch": tuple(record["encoder"]["patch"]), "token_start": start}
            return cls(
                encoder=EncoderConfig(**encoder),
                variables=tuple(record["variables"]),
                units=tuple(record["units"]),
                grid=LatLonGrid.from_json(record["grid"]),
                statistics=Statistics.from_json(kind, arrays["coefficients"].numpy(), arrays["scale"].numpy()),
                splits=Splits.from_json(record["splits"]),
                **{**{name: record[name] for name in PLAIN}, "extra": extra},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EarthSSLError(f"{where}: the record lacks or mistypes a field ({error}); fetch it again") from None


def check_lengths(record: dict[str, Any], where: object) -> None:
    """Check of a record that fits its schema what a schema cannot say: fields that must be as long as others.

    Raises:
        EarthSSLError: Listing them.
    """
    wrong = []
    count = len(record["variables"])
    if len(record["units"]) != count:
        wrong.append(f"$.units: expected {count} entries, one a variable, got {len(record['units'])}")
    transforms = record["statistics"].get("transforms", [])
    if transforms and len(transforms) != count:
        wrong.append(f"$.statistics.transforms: expected {count} entries, one a variable, got {len(transforms)}")
    if wrong:
        raise EarthSSLError(f"{where}: {'; '.join(wrong)}; fetch it again")


def differences(record: Record, variables: Sequence[str], grid: LatLonGrid, step_days: float) -> list[str]:
    """Return in words how data differ from what an encoder was trained on; empty where they fit."""
    said = []
    unknown = [name for name in variables if name not in record.variables]
    if not set(variables) & set(record.variables):
        said.append(f"variables: expected some of {', '.join(record.variables)}, got {', '.join(unknown)}")
    if not record.grid.same_as(grid):
        said.append(f"grid: expected {record.grid}, got {grid}")
    if not abs(step_days - record.step_days) <= 0.1 * record.step_days:
        said.append(f"time step: expected {record.step_days:g} days, got {step_days:g}")
    return said
