"""Settings of rapid intensification."""

from __future__ import annotations

from dataclasses import dataclass, field

from ....ssl.common.errors import EarthSSLError, check_settings
from ....ssl.fields.splits import PARTS
from ...evaluation.config import TaskConfig
from ...storms.best_tracks import IBTRACS
from ...storms.crops import POOLINGS, CropConfig
from ...storms.storm_table import TableConfig
from ...training.fine_tuning import FinetuneConfig
from ...training.from_scratch import ScratchConfig

NAME, PLANET = "rapid_intensification", "planet"
UNITS = ("season", "storm")


@dataclass(frozen=True)
class FieldsConfig:
    """What of the fields around a storm the heads are given.

    Attributes:
        crops: Size and orientation of the crops.
        poolings: Ways to pool tokens, to choose from: mean, last, nearby.
        pca_components: Numbers of principal components of the crops, to choose from; empty leaves those rows out.
        steps_before: 0: the crop's last step is at the sample's time, exactly. 1: it is the step before the one that
            the time lies in (the month before, of monthly fields, which is over by then), 2 the one before that, …
        other_grid: Take encoders that were pretrained on another region of the same spacing; they need
            `other_statistics` too, as their climatology is of other cells.
    """

    crops: CropConfig = field(default_factory=CropConfig)
    poolings: list[str] = field(default_factory=lambda: ["mean", "last"])
    pca_components: list[int] = field(default_factory=lambda: [10, 40])
    steps_before: int = 0
    other_grid: bool = False

    def __post_init__(self) -> None:
        rules = {"poolings": POOLINGS, "pca_components": "≥ 1", "steps_before": "≥ 0"}
        check_settings("fields", self, rules, empty=("pca_components",))


@dataclass(frozen=True)
class RapidIntensificationConfig(TaskConfig):
    """What to forecast and with what; see `TaskConfig` for the rest.

    Attributes:
        store: Folder of a 6-hourly store that covers storms, for the rows with fields (of any step, with
            `fields.steps_before`); empty for tracks alone.
        tracks: ibtracs (real, 1980–2024; extra `cyclones`), planet (those of the store's own planet), or a CSV or
            Parquet file with the columns of storms/best_tracks.py.
        table: A table with columns of other names, and with predictors beside the track; in place of `tracks`.
        thresholds_kt: Changes of the wind in 24 h to forecast; the first has all rows, tables and pictures.
        train, val, test: First and last season of each block; not read with a store, whose blocks of time count, but
            with a `table` (that has no `split`): its test samples must lie in the store's test block.
        sst: NetCDF file of monthly SST, for climatological SST and potential intensity; null takes the store's, if
            it has `sst`.
        sst_years: First and last year of each climatology of the file; null for the training years, or if it has
            fewer than 4 of them, for all years before those of the test block. A store's is of its training
            block, whatever this says.
        fields: What of the store the heads are given.
        layers: Blocks to choose from, counted from 0, negative from the end; null for all.
        finetune: How pretrained encoders are fine-tuned on the events.
        finetune_seeds: Number of pretrained encoders, in their order, that are fine-tuned.
        scratch: The same network, all of it at one rate; its drop path, warm-up and patience are those of `finetune`.
        label_unit: What the shares of the training labels are of: season or storm.
        tree_seeds: Seeds of the boosted trees.
        members: Of the planet's ensemble for the upper bound.
        block: Storms drawn together; neighbours in the table are not neighbours in time.
    """

    store: str = ""
    task: str = NAME
    tracks: str = IBTRACS
    table: TableConfig = field(default_factory=TableConfig)
    thresholds_kt: list[float] = field(default_factory=lambda: [30.0, 25.0, 35.0, 40.0])
    train: tuple[int, int] = (1980, 2009)
    val: tuple[int, int] = (2010, 2014)
    test: tuple[int, int] = (2015, 2024)
    sst: str | None = None
    sst_years: list[tuple[int, int]] | None = None
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    finetune: FinetuneConfig = field(default_factory=lambda: FinetuneConfig(steps=600, batch_size=64, lr=1e-3))
    finetune_seeds: int = 3
    scratch: ScratchConfig = field(default_factory=lambda: ScratchConfig(steps=600, lr=1e-3))
    label_unit: str = "season"
    tree_seeds: int = 3
    members: int = 200
    draws: int = 1000
    block: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check({"thresholds_kt": "> 0", "label_unit": UNITS, "finetune_seeds": "≥ 0", "tree_seeds members": "≥ 1"})
        self.expect(
            self.train[0] <= self.train[1] < self.val[0] <= self.val[1] < self.test[0] <= self.test[1],
            "the seasons of train before those of val before those of test, each from first to last", *PARTS,
        )  # fmt: skip
        if (self.checkpoints or self.tracks == PLANET) and not self.store:
            what = "checkpoints need" if self.checkpoints else "tracks: planet needs"
            raise EarthSSLError(f"{NAME}: {what} a 6-hourly store that covers the storms, got none; set store")
        if self.table.path and self.tracks != IBTRACS:
            raise EarthSSLError(f"{NAME}: expected tracks or table.path, got both; leave one of them out")
        if not self.table.path and self.table != TableConfig():
            raise EarthSSLError(f"{NAME}.table.path: expected the file that the columns are of, got none; set it")
        years = self.sst_years
        ordered = years is None or (years != [] and all(first <= last for first, last in years))
        self.expect(ordered, "first and last years, or no sst_years", "sst_years")
