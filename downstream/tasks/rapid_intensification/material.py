"""Material of rapid intensification: tracks, samples and their blocks, and beside them SST and the fields around."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ....ssl.common.errors import EarthSSLError
from ....ssl.fields.splits import PARTS
from ....ssl.model.encoder import EncoderConfig
from ....ssl.sources.planet.planet import Planet
from ....ssl.sources.planet.recorded import recorded_planet
from ....ssl.store.store import Store
from ...evaluation.encoders import Contender
from ...evaluation.label_tables import far_marks
from ...features.raw_window import block_means
from ...storms.best_tracks import best_tracks, tidy
from ...storms.crop_geometry import headings
from ...storms.crop_network import CropPatches
from ...storms.crops import StormCrops, crop_features, crop_pca
from ...storms.sst_climatology import SstClimatology, file_years
from ...storms.storm_table import CHANGE, OWN, PART, storm_table
from .config import NAME, PLANET, FieldsConfig, RapidIntensificationConfig
from .samples import FEWEST, parts_by_season, parts_by_time, samples_of

FEWEST_YEARS = 4  # of an SST climatology that is chosen here
ANSWER, FEWEST_PAIRS = 0.98, 20  # |r| beyond which a predictor is the answer, and samples that it takes to tell
MOST_VALUES = 3000  # of a crop; of more, cells are averaged over square blocks


@dataclass(frozen=True, eq=False)
class Material:
    """Tracks, samples and what they were made from.

    Attributes:
        tracks: Tidy tracks.
        samples: All samples, see `samples_of`.
        part: Block of each.
        store: Fields, or None.
        planet: The synthetic planet whose storms these are, or None.
        notes: What was left out of a table, in words.
    """

    tracks: pd.DataFrame
    samples: pd.DataFrame
    part: np.ndarray
    store: Store | None
    planet: Planet | None
    notes: Sequence[str] = ()

    @classmethod
    def of(cls, config: RapidIntensificationConfig, store: Store | None) -> Material:
        """Read the tracks and divide the samples."""
        if config.sst_years and config.sst is None and (store is None or "sst" not in store.variables):
            raise EarthSSLError(
                f"{NAME}.sst_years: expected a file of SST to take {config.sst_years} from, got none; set sst, or "
                "leave sst_years out"
            )
        seasons = {name: getattr(config, name) for name in PARTS}
        if config.table.path:
            return cls._of_table(config, store, seasons)
        own = store if config.tracks == PLANET else None
        planet = None if own is None else recorded_planet(own.manifest["attributes"])
        tracks = tidy(planet.tracks(), "planet") if planet is not None else best_tracks(config.tracks)
        samples = samples_of(tracks)
        part = parts_by_season(samples, seasons) if store is None else parts_by_time(samples, store.splits)
        return cls(tracks, samples, part, store, planet)

    @classmethod
    def _of_table(
        cls, config: RapidIntensificationConfig, store: Store | None, seasons: dict[str, tuple[int, int]]
    ) -> Material:
        """Read a table; blocks are its own or those of the seasons, tests only in the test block of the store."""
        found = storm_table(config.table)
        samples = samples_of(found.tracks, told=CHANGE in found.tracks)
        part = samples[PART].to_numpy(str) if PART in samples else parts_by_season(samples, seasons)
        _refuse_marks(config, samples)
        _refuse_answers(config, samples, part == "train")
        if store is not None:
            tested = part == "test"
            outside = tested & ~store.splits.inside(samples["time"].to_numpy("datetime64[ns]"), "test")
            if outside.any():
                first, last = (str(instant)[:10] for instant in store.splits.test)
                raise EarthSSLError(
                    f"{NAME}: expected the test samples of {config.table.path} in the store's test block ({first} … "
                    f"{last}), which no encoder has seen, got {int(outside.sum())} of {int(tested.sum())} outside it; "
                    "set table.split null and test to seasons of that block, or prepare a store with another"
                )
        return cls(found.tracks, samples, part, store, None, found.notes)


def _refuse_marks(config: RapidIntensificationConfig, samples: pd.DataFrame) -> None:
    """Refuse predictors with marks of what is missing, such as -999, far from all else."""
    for name, columns in config.table.predictors.items():
        for column in columns:
            values = samples[OWN + column].to_numpy(float)
            marks, (low, high) = far_marks(values)
            if marks.any():
                raise EarthSSLError(
                    f"table.predictors.{name}: expected values in the column '{column}' of {config.table.path}, got "
                    f"{values[np.argmax(marks)]:g}, far from the others ({low:.3g} to {high:.3g}) and a usual mark of "
                    f"what is missing ({int(marks.sum())} such); leave these empty"
                )


def _refuse_answers(config: RapidIntensificationConfig, samples: pd.DataFrame, train: np.ndarray) -> None:
    """Refuse predictors that follow the wind 24 h later, its change or the event more closely than the wind now."""
    now, change = samples["wind_kt"].to_numpy(float), samples[CHANGE].to_numpy(float)
    answers = {"the wind 24 h later": now + change, "its change": change}
    answers |= {f"a change of {limit:g} kt": (change >= limit).astype(float) for limit in config.thresholds_kt}
    for name, columns in config.table.predictors.items():
        for column in columns:
            values = samples[OWN + column].to_numpy(float)
            known = train & np.isfinite(values)
            present = _alike(values[known], now[known])
            for what, answer in answers.items():
                found = _alike(values[known], answer[known])
                if found > max(ANSWER, present):
                    raise EarthSSLError(
                        f"table.predictors.{name}: expected what is known at the time, got '{column}', which follows "
                        f"{what} (|r| = {found:.3f} in training, {present:.2f} with the wind now); leave it out"
                    )


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    """Return |correlation|, 0 where there are fewer than `FEWEST_PAIRS` or one of them is constant."""
    if len(a) < FEWEST_PAIRS or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.abs(np.corrcoef(a, b)[0, 1]))


def modelled(material: Material, shown: np.ndarray) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the samples that all rows are fitted and scored on, their basins, and what was left out, in words.

    Args:
        material: All samples.
        shown: Which of them have fields around them, where fields are asked for.

    Raises:
        EarthSSLError: If a block holds none.
    """
    samples, notes = material.samples, []
    kept = np.ones(len(samples), bool)
    for good, why in (
        (material.part != "", "lie in no block, or their storm not whole in one: left out."),
        (shown, "lie outside the fields in time or space: left out of every row, so that all are scored on the same."),
    ):
        if not good[kept].all():
            notes.append(f"{int((kept & ~good).sum())} samples {why}")
        kept &= good
    trained = samples["basin"][kept & (material.part == "train")].value_counts()
    basins = sorted(str(name) for name, count in trained.items() if count >= FEWEST)
    strange = kept & ~samples["basin"].isin(basins).to_numpy()
    if strange.any():
        where = ", ".join(sorted(samples["basin"][strange].unique()))
        notes.append(f"{int(strange.sum())} samples of {where}: left out, fewer than {FEWEST} to train on.")
    kept &= ~strange
    for name in PARTS:
        if not (kept & (material.part == name)).any():
            first, last = samples["time"].min(), samples["time"].max()
            raise EarthSSLError(
                f"{NAME}: expected samples in the {name} block, got none of {len(samples)} between {first:%Y-%m-%d} "
                f"and {last:%Y-%m-%d}; move the blocks, or take other tracks or fields. {' '.join(notes)}"
            )
    return kept, basins, notes


def climatologies(config: RapidIntensificationConfig, material: Material) -> dict[str, SstClimatology]:
    """Return the SST climatologies to use by their period."""
    store = material.store
    if config.sst is not None:
        years = config.sst_years or [sst_years(file_years(config.sst), config, material)]
        made = [SstClimatology.from_file(config.sst, (first, last)) for first, last in years]
    else:
        made = [SstClimatology.of_store(store)] if store is not None and "sst" in store.variables else []
    return {one.period: one for one in made}


def sst_years(found: tuple[int, int], config: RapidIntensificationConfig, material: Material) -> tuple[int, int]:
    """Return the training years that a file holds, or all of its years before those of the test block.

    Raises:
        EarthSSLError: If both are too few.
    """
    train, test = (material.samples["time"][material.part == name] for name in ("train", "test"))
    tested = test.min().year  # southern seasons begin in the year before
    if not config.table.path:  # a table says itself what is tested on; its store's block may begin long before
        block = pd.Timestamp(material.store.splits.test[0]).year if material.store is not None else config.test[0]
        tested = min(block, tested)
    last = min(found[1], tested - 1)
    for low, high in ((max(found[0], train.min().year), min(last, train.max().year)), (found[0], last)):
        if high - low + 1 >= FEWEST_YEARS:
            return low, high
    raise EarthSSLError(
        f"{NAME}.sst: expected {FEWEST_YEARS} years or more before the test block's first, {tested}, got a file "
        f"of {found[0]} to {found[1]}; give a longer record, or set sst_years"
    )


def warnings(found: Mapping[str, SstClimatology], tested: pd.Timestamp) -> Iterator[str]:
    """Yield which climatologies know months of the test seasons."""
    first = np.datetime64(tested, "M")
    for name, one in found.items():
        late = int((one.times >= first).sum())
        if late:
            yield f"SST climatology {name}: {late} of its {len(one.times)} months lie in the test block ({first} …)."
    if not found:
        yield "No SST was given: no rows with climatological SST and potential intensity. Set sst."


def times_before(store: Store, times: pd.Series, steps: int) -> np.ndarray:
    """Return the time of the store's step that lies some steps before the one that each time is in, datetime64[ns].

    A time that lies in no step of the store, or has too few before it, becomes one that the store does not have.

    Args:
        store: Its steps are stamped at their start (or within, which is only more careful).
        times: Of the samples.
        steps: How many before.
    """
    own, asked = store.times.astype("datetime64[ns]"), times.to_numpy("datetime64[ns]")
    within = np.searchsorted(own, asked, side="right") - 1
    longest = np.timedelta64(round(1.1 * store.step_days * 86400), "s")
    good = (within >= steps) & (asked - own[np.maximum(within, 0)] < longest)
    never = own[0] - np.timedelta64(1, "D")
    return np.where(good, own[np.maximum(within - steps, 0)], never)


class StormFields:
    """Crops of a store around samples.

    Attributes:
        shown: Which samples have a crop, bool (samples,).
        dropped: How many have none, by reason.
    """

    def __init__(
        self, store: Store, samples: pd.DataFrame, tracks: pd.DataFrame, config: FieldsConfig, shape: EncoderConfig
    ) -> None:
        """Choose the samples that can be shown.

        Args:
            store: The fields.
            samples: See `samples_of`.
            tracks: What the samples were taken from; gives the motion for rotated crops.
            config: What to extract.
            shape: Window and patch of the encoders.

        Raises:
            EarthSSLError: If no sample lies in the store, or as for `StormCrops`.
        """
        self.store, self.config, self.shape = store, config, shape
        self.samples = samples
        if config.crops.rotated:
            motion = tracks[["storm", "time"]].assign(heading=headings(tracks))
            self.samples = samples.merge(motion, on=["storm", "time"], how="left", validate="1:1")
        if config.steps_before:
            self.samples = self.samples.assign(time=times_before(store, self.samples["time"], config.steps_before))
        self.crops = self.of(np.ones(len(samples), bool))
        self.dropped = self.crops.dropped
        self.shown = np.zeros(len(samples), bool)
        self.shown[self.crops.kept] = True

    def of(self, kept: np.ndarray) -> StormCrops:
        """Return the crops of some samples, in whole patches."""
        samples = self.samples[kept].reset_index(drop=True)
        return StormCrops(self.store, samples, self.shape.window, self.config.crops, self.shape.patch[1:])

    def patches(self, kept: np.ndarray) -> CropPatches:
        """Return the patches of the crops of some samples that are shown, for networks."""
        return CropPatches(self.of(kept), self.shape.patch)

    def embedded(self, one: Contender, layers: Sequence[int], kept: np.ndarray) -> dict[str, np.ndarray]:
        """Return the frozen features of an encoder for some samples that are shown, by pooling and layer."""
        made = {}
        for pooling in self.config.poolings:
            found = crop_features(one.encoder, self.store, self.samples, layers, self.config.crops, pooling)
            at = np.searchsorted(found.kept, np.flatnonzero(kept))
            for layer in layers:
                made[f"layer {layer + 1}, {pooling}"] = found.values[layer][at]
        return made

    def raw(self, kept: np.ndarray) -> np.ndarray:
        """Return the crops of some samples that are shown, float32 (sample, value); 0 = missing."""
        cells = self.of(kept).fields()
        factor, (rows, columns) = 1, cells.shape[-2:]
        while -(-rows // factor) * -(-columns // factor) * cells.shape[1] * cells.shape[2] > MOST_VALUES:
            factor += 1
        return np.nan_to_num(block_means(cells, factor)).reshape(len(cells), -1)

    def components(self, train: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        """Return leading principal components of the crops of some samples that are shown, by their number.

        Args:
            train: Which of all samples lie in the training block; they are fitted on.
            kept: Which are asked for.
        """
        counts = self.config.pca_components
        found = crop_pca(self.crops, train, max(counts)).astype(np.float32)
        own = found[np.searchsorted(self.crops.kept, np.flatnonzero(kept))]
        return {f"{count} components": own[:, :count] for count in counts}
