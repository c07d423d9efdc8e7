"""TaskConfig: the settings that every downstream task has."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields

from ...ssl.common.errors import EarthSSLError, check_settings
from ...ssl.model.encoder import EncoderConfig
from ..training.from_scratch import ScratchConfig
from .label_fractions import FRACTIONS

EACH_ONCE = (
    "leads", "heads", "fractions", "checkpoints", "columns", "variables", "fields", "neighbours", "scalings", "metrics",
    "forecast_leads", "thresholds_kt",
)  # fmt: skip


@dataclass(frozen=True)
class TaskConfig:
    """What every task has.

    Attributes:
        store: Folder of the training store; empty for tasks that can do without fields.
        out: Folder of the results; must be new or empty.
        checkpoints: Checkpoint folders (or run folders) of one recipe at several seeds; empty: untrained only.
        task: Name of the task.
        encoder: Shape of the untrained encoders where there are no checkpoints.
        other_statistics: Take encoders whose data had another climatology (another model, another planet): they are
            given the store's anomalies by its own climatology and scale. Else they are refused.
        layers: Blocks to read, counted from 0, negative from the end; null for the last third, at least two.
        untrained_seeds: Number of randomly initialised twins.
        random_seeds: Number of sets of random features of the raw window.
        scratch: The same network trained on the labels.
        fractions: Shares of the training labels (by whole years, storms, weeks) for the curve; empty for none.
        label_draws: Draws of the labels at each share.
        scratch_draws: Of these, those that a network is trained from scratch on; 0 leaves it out of the curve.
        draws: Bootstrap draws.
        block: Neighbouring independent units (years, storms, weeks) drawn together.
        cache: Folder of cached features; null puts it beside the results.
        uncertainty: Whether distributions around every row's forecasts are scored beside the table; for numbers all
            rows are made once more, with the blocks moved back by one.
    """

    store: str
    out: str = ""
    checkpoints: list[str] = field(default_factory=list)
    task: str = ""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    other_statistics: bool = False
    layers: list[int] | None = None
    untrained_seeds: int = 3
    random_seeds: int = 5
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
    fractions: list[float] = field(default_factory=lambda: list(FRACTIONS))
    label_draws: int = 5
    scratch_draws: int = 1
    draws: int = 2000
    block: int = 2
    cache: str | None = None
    uncertainty: bool = False

    def __post_init__(self) -> None:
        own = next(one.default for one in fields(self) if one.name == "task")
        if self.task != own:
            raise EarthSSLError(f"probe.task: expected {own}, got '{self.task}'")
        self.check({"draws": "≥ 1000", "label_draws block": "≥ 1", "fractions": "(0, 1]",
                    "untrained_seeds random_seeds scratch_draws": "≥ 0"}, empty=("fractions",))  # fmt: skip
        self.expect(self.layers != [], "at least one layer, or null for the last third", "layers")
        # Settings that only some tasks have.
        self.check(
            {name: "≥ 1" for name in ("components", "pca_components", "window", "pca_window") if hasattr(self, name)}
        )
        for name in EACH_ONCE:
            values = getattr(self, name, None)
            self.expect(not isinstance(values, list) or len(set(values)) == len(values), f"{name} each once", name)

    def check(self, rules: Mapping[str, str | Sequence[str]], empty: Collection[str] = ()) -> None:
        """Refuse settings that are not as rules say, see `check_settings`."""
        check_settings(self.task, self, rules, empty)

    def expect(self, good: bool, words: str, *names: str) -> None:
        """Raise an EarthSSLError with what was expected of settings, and with what they are, unless all is good."""
        if not good:
            got = ", ".join(f"{name} {getattr(self, name)}" for name in names)
            where = f"{self.task}.{names[0]}" if len(names) == 1 else self.task
            raise EarthSSLError(f"{where}: expected {words}, got {got}")
