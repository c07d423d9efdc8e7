"""FinetuningConfig: what to tune on which labels, and how."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from ...ssl.common.errors import EarthSSLError, check_known, check_settings
from ...ssl.constraints.config import ConstraintConfig
from ...ssl.sources.regrid import LEAST_VALID
from ..evaluation.config import TaskConfig
from ..evaluation.label_fractions import FRACTIONS
from ..training.fine_tuning import MODES, FinetuneConfig
from ..training.from_scratch import ScratchConfig

GRIDS = ("checkpoint", "store")
STORE, OWN = "store", "own"


@dataclass(frozen=True)
class Table(TaskConfig):
    """What the seam of downstream tasks asks of a fine-tuning."""

    task: str = "finetune"


@dataclass(frozen=True, kw_only=True)
class FinetuningConfig(FinetuneConfig):
    """What to tune on which labels, and how.

    Attributes:
        checkpoint: Address or folder of the pretrained encoder (or of its run).
        store: Folder of a training store of your own data (`earthssl prepare`).
        labels: CSV with a column of ISO times in UTC, a column for each target, and lat and lon where labels belong to
            places; or NetCDF with variables (time) or, for fields, (time, lat, lon).
        target: Column or variable to predict; a list for several numbers.
        out: Folder of the results; must be new or empty.
        kind: regression, classification or field.
        units: Of each target where the file does not say, as CSV cannot; a list for several.
        time: Name of the column or coordinate of time.
        missing: "refuse" labels without a value, or "drop" them.
        lead: Steps from the window's last input step to the label.
        mode: head, last, full or lora; the network that is saved. Embeddings of new variables are trained in each.
        compare: Other modes for the table.
        pooling: mean, last, mean+pcs; near, near+mean for labels with places; auto: chosen on validation.
        near: Patches whose features are pooled at a place.
        components: Numbers of principal components that mean+pcs chooses between.
        grid: "checkpoint" brings a store on a finer or shifted grid to the checkpoint's, in a store beside the results;
            "store" tunes on the store's own.
        label_grid: Of fields as labels: "store" brings them to the store's grid; "own" leaves them on
            theirs, whose cells, finer or not, must fill the store's.
        least_valid: Share of the area of a cell of the checkpoint's grid that must hold values where a store is brought
            to it; else the cell is missing.
        base: First and last date of the years whose monthly means are subtracted, where `ssta` must stand for `sst` or
            the other way round and the store's training block is too short; they must leave out validation and test.
        window, patch: Steps of a window; steps, rows and columns of a patch; null for those of the checkpoint.
        layers: Blocks that the linear probe reads; null for the last third, at least two.
        random_seeds: Number of sets of random features of the raw window.
        fractions: Shares of the training labels (by whole units) for the curve; empty for none.
        label_draws: Draws of the labels at each share.
        scratch_draws: Of these, those that networks are trained on, from scratch and from the pretrained encoder.
        seeds: Number of trainings of each mode; the one that does best on validation is saved.
        scratch_seeds, untrained_seeds: Number of networks from scratch, and of untrained encoders.
        persistence: Whether the labels' past is known when a prediction is made, so that persistence is a rival.
        allow_seen: Go on although pretraining saw times of the test block; the table says so.
        unit: year, month, week or day: drawn as a whole for intervals; auto for the longest of which there are eight.
        block: Neighbouring units drawn together.
        draws: Bootstrap draws.
        constraints: What predictions of numbers or fields must satisfy, see ssl/constraints/config.py.
        lr, head_lr, patience: As in `FinetuneConfig`, with defaults of their own: the head begins as the solved linear
            probe, so it moves slowly; no early stop, as the rates fall to 0 only at the end, where most is gained.
    """

    checkpoint: str
    store: str
    labels: str
    target: str | list[str]
    out: str
    kind: str = "regression"
    units: str | list[str] | None = None
    time: str = "time"
    missing: str = "refuse"
    lead: int = 0
    compare: list[str] | None = None
    pooling: str = "auto"
    near: int = 4
    components: list[int] | None = None
    grid: str = "checkpoint"
    label_grid: str = STORE
    least_valid: float = LEAST_VALID
    base: tuple[str | int, str | int] | None = None
    window: int | None = None
    patch: tuple[int, int, int] | None = None
    layers: list[int] | None = None
    seeds: int = 3
    scratch_seeds: int = 2
    untrained_seeds: int = 2
    random_seeds: int = 5
    fractions: list[float] = field(default_factory=lambda: list(FRACTIONS))
    label_draws: int = 5
    scratch_draws: int = 1
    persistence: bool = True
    allow_seen: bool = False
    unit: str = "auto"
    block: int = 1
    draws: int = 1000
    constraints: list[ConstraintConfig] = field(default_factory=list)
    lr: float = 1e-3
    head_lr: float = 0.1
    patience: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compare:
            check_known("finetune.compare", self.compare, [mode for mode in MODES if mode != self.mode])
        check_settings("finetune", self, {
            "grid": GRIDS, "label_grid": (STORE, OWN), "least_valid": "(0, 1]", "near seeds components": "≥ 1",
        }, empty=("components",))  # fmt: skip
        if self.label_grid == OWN and self.kind != "field":
            raise EarthSSLError(
                f"finetune.label_grid: expected store for kind {self.kind}, got own: only fields have a grid; "
                "set kind: field"
            )
        self.table()  # refuses the rest
        if self.units is not None and not isinstance(self.units, str) and len(self.units) != len(self.targets):
            raise EarthSSLError(
                f"finetune.units: expected one for each of {len(self.targets)} targets, got {self.units}"
            )

    @property
    def targets(self) -> list[str]:
        """Names of what is predicted."""
        return [self.target] if isinstance(self.target, str) else list(self.target)

    def table(self) -> TaskConfig:
        """Return what the seam of downstream tasks asks of its tasks, checked."""
        return Table(
            self.store, self.out, [self.checkpoint], layers=self.layers, untrained_seeds=self.untrained_seeds,
            random_seeds=self.random_seeds, scratch=ScratchConfig(seeds=self.scratch_seeds), fractions=self.fractions,
            label_draws=self.label_draws, scratch_draws=self.scratch_draws, draws=self.draws, block=self.block,
        )  # fmt: skip

    def training(self, mode: str) -> FinetuneConfig:
        """Return how a mode is trained; networks from scratch ("scratch") in full, every layer at the same rate."""
        own = {f.name: getattr(self, f.name) for f in fields(FinetuneConfig)}
        plain = {"mode": "full", "layer_decay": 1.0, "head_lr": 1.0}
        return FinetuneConfig(**own | (plain if mode == "scratch" else {"mode": mode}))
