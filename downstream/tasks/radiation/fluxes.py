"""Fluxes of a column: heating rates as their divergence, and columns that close by construction.

What is learnt of a band (longwave, shortwave) is the upward flux at each interface and the heating rate of each layer.
The net flux is then that at the top less what the layers above take, the downward flux is net plus upward, and three
things hold exactly whatever was learnt: the energy that the layers take is the net flux at the top less that at the
surface; the downward flux at the top is the Sun's (longwave: none); at the surface the upward flux is what is emitted
and reflected.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ....ssl.common.errors import EarthSSLError

GRAVITY, HEAT_CAPACITY, DAY = 9.80665, 1004.64, 86_400.0  # m s-2, J kg-1 K-1, s
STEFAN_BOLTZMANN = 5.670374419e-8  # W m-2 K-4
LEAST = 1e-9  # of a deviation
MOST_OFF = 2.0  # W m-2 by which fluxes may miss what their edges must be; RTE+RRTMGP's miss it by .1
LONGWAVE, SHORTWAVE = "longwave", "shortwave"


def heat_content(pressure: np.ndarray) -> np.ndarray:
    """Return the W m-2 that warm each layer by 1 K a day, (…, layer), of pressures at its interfaces, Pa, downward."""
    return np.asarray(HEAT_CAPACITY * np.diff(pressure, axis=-1) / (GRAVITY * DAY))


def heating(up: np.ndarray, down: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Return the heating rates of layers, K a day, (…, layer), of fluxes at their interfaces, W m-2, from the top."""
    return np.asarray(-np.diff(down - up, axis=-1) / content)


def unclosed(up: np.ndarray, rates: np.ndarray, down: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Return the energy that a column takes less the net flux at its top and what leaves below, W m-2, (…,).

    Args:
        up, down: Fluxes at the interfaces, (…, level).
        rates: Heating rates, K a day, (…, layer).
        content: See `heat_content`.
    """
    net = down - up
    return np.asarray((rates * content).sum(axis=-1) - (net[..., 0] - net[..., -1]))


@dataclass(frozen=True, eq=False)
class Scaling:
    """How numbers of about 1 become fluxes and rates, for each unit of `Band.unit`.

    Attributes:
        mean, scale: Of upward fluxes (level), heating rates (layer) and downward fluxes (level), one after the other.
        flux: Deviation of the fluxes, all levels together, W m-2.
        rate: Deviation of the heating rates of each layer, K a day, (layer,).
    """

    mean: np.ndarray
    scale: np.ndarray
    flux: float
    rate: np.ndarray


@dataclass(frozen=True, eq=False)
class Band:
    """The truth of one band, and what is known of it without radiative transfer.

    Attributes:
        name: longwave or shortwave.
        up, down: Reference fluxes at the interfaces from the top, W m-2, float64 (sample, level).
        content: See `heat_content`, (sample, layer).
        unit: Fluxes are learnt as multiples of it: 1, or the insolation, (sample,).
        top: Downward flux at the top, (sample,).
        emitted, reflected: At the surface the upward flux is emitted + reflected × downward flux, (sample,).
        lit: Samples where there is anything to be told, bool (sample,).
    """

    name: str
    up: np.ndarray
    down: np.ndarray
    content: np.ndarray
    unit: np.ndarray
    top: np.ndarray
    emitted: np.ndarray
    reflected: np.ndarray
    lit: np.ndarray

    @cached_property
    def rates(self) -> np.ndarray:
        """Reference heating rates, K a day, (sample, layer)."""
        return heating(self.up, self.down, self.content)

    @cached_property
    def truth(self) -> np.ndarray:
        """Upward fluxes, heating rates and downward fluxes one after the other, (sample, value)."""
        return np.concatenate([self.up, self.rates, self.down], axis=1)

    def parts(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return upward fluxes, heating rates and downward fluxes of values as in `truth`."""
        levels = self.up.shape[1]
        return values[..., :levels], values[..., levels : 2 * levels - 1], values[..., 2 * levels - 1 :]

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return those of some samples that are lit; all of them where none is, so that there is something to fit."""
        return rows[self.lit[rows]] if self.lit[rows].any() else rows

    def scaling(self, rows: np.ndarray) -> Scaling:
        """Return mean and deviation over those of some samples that are lit."""
        truth = self.truth[self.of(rows)]
        told = truth / self.unit[self.of(rows), None]
        up, rates, down = self.parts(told - told.mean(axis=0))
        spread = np.full(up.shape[1], max(float(np.concatenate([up, down]).std()), LEAST))
        scale = np.concatenate([spread, np.maximum(rates.std(axis=0), max(1e-3 * rates.std(), LEAST)), spread])
        up, rates, down = self.parts(truth - truth.mean(axis=0))
        flux = max(float(np.concatenate([up, down]).std()), LEAST)
        return Scaling(told.mean(axis=0), scale, flux, np.maximum(rates.std(axis=0), LEAST))

    def outputs(self, free: bool) -> int:
        """Return how many numbers are learnt of a column; with `free` the downward fluxes are, too."""
        return self.up.shape[1] * (3 if free else 2) - 1

    def learnt(self, rows: np.ndarray, scaling: Scaling) -> np.ndarray:
        """Return the numbers of about 1 that are learnt of some lit samples, (sample, outputs)."""
        told = (self.truth[rows] / self.unit[rows, None] - scaling.mean) / scaling.scale
        return np.asarray(told[:, : self.outputs(False)])

    def told(self, numbers: Tensor, rows: np.ndarray, scaling: Scaling, free: bool = False) -> Tensor:
        """Return fluxes and heating rates, as in `truth`, of learnt numbers; closed unless `free`.

        Args:
            numbers: Shape (sample, outputs).
            rows: The samples that they are of.
            scaling: Of the training.
            free: Whether they were learnt apart, with nothing that holds them together.
        """

        def of(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(numbers.dtype)

        count, levels = self.outputs(free), self.up.shape[1]
        found = (of(scaling.mean[:count]) + of(scaling.scale[:count]) * numbers) * of(self.unit[rows])[:, None]
        if free:
            return found
        up, rates = found[:, :levels], found[:, levels:]
        first = of(self.top[rows]) - up[:, 0]
        taken = torch.cumsum(rates * of(self.content[rows]), dim=1)
        net = torch.cat([first[:, None], first[:, None] - taken], dim=1)
        emitted, reflected = of(self.emitted[rows]), of(self.reflected[rows])
        surface = emitted + reflected * (net[:, -1] + emitted) / (1 - reflected)
        up = torch.cat([up[:, :-1], surface[:, None]], dim=1)
        return torch.cat([up, rates, net + up], dim=1)

    def loss(self, told: Tensor, rows: np.ndarray, scaling: Scaling) -> Tensor:
        """Return the squared error of fluxes and of heating rates, each over its variance, summed; (sample,)."""
        off = told - torch.from_numpy(self.truth[rows]).to(told.dtype)
        up, rates, down = self.parts(off)  # type: ignore[arg-type]
        flux = ((up**2).mean(1) + (down**2).mean(1)) / 2 / scaling.flux**2
        return flux + ((rates / torch.from_numpy(scaling.rate).to(told.dtype)) ** 2).mean(1)  # type: ignore[no-any-return]


def bands_of(data: xr.Dataset, site: np.ndarray, experiment: np.ndarray) -> tuple[Band, Band]:
    """Return longwave and shortwave of some columns of RFMIP-IRF.

    Args:
        data: As `read_columns` returns it, with fluxes.
        site, experiment: Of each sample, (sample,).

    Raises:
        EarthSSLError: If the fluxes are not those of these columns: at the top what comes down is the Sun's (longwave:
            none), at the surface what goes up is emitted and reflected there.
    """
    content = heat_content(data["pres_level"].values)[site]
    emissivity = data["surface_emissivity"].values[site]
    albedo = data["surface_albedo"].values[site]
    surface = data["surface_temperature"].values[experiment, site]
    cosine = np.cos(np.deg2rad(data["solar_zenith_angle"].values[site]))
    sun = data["total_solar_irradiance"].values[site] * np.maximum(cosine, 0.0)
    fluxes = {name: data[name].values[experiment, site] for name in ("rlu", "rld", "rsu", "rsd")}
    none, one = np.zeros(len(site)), np.ones(len(site))
    long = Band(LONGWAVE, fluxes["rlu"], fluxes["rld"], content, one, none, emissivity * STEFAN_BOLTZMANN * surface**4,
                1 - emissivity, one > 0)  # fmt: skip
    short = Band(SHORTWAVE, fluxes["rsu"], fluxes["rsd"], content, np.maximum(sun, 1e-9), sun, none, albedo, sun > 0)
    for band, down, up in ((long, "rld", "rlu"), (short, "rsd", "rsu")):
        surface = band.emitted + band.reflected * band.down[:, -1]
        for name, own, due, place in ((down, band.down[:, 0], band.top, "at the top"),
                                      (up, band.up[:, -1], surface, "at the surface")):  # fmt: skip
            off = np.abs(own - due)
            if off.max() > MOST_OFF:
                k = int(off.argmax())
                raise EarthSSLError(
                    f"radiation.reference: expected '{name}' {place} to be {due[k]:.1f} W m-2 at site {site[k]} of the "
                    f"file, by its Sun, temperature, emissivity and albedo, got {own[k]:.1f}; give fluxes of the same "
                    "columns, levels from the top, 'd' downward and 'u' upward"
                )
    return long, short


def beside_the_profile(data: xr.Dataset, site: np.ndarray, experiment: np.ndarray) -> np.ndarray:
    """Return what a store does not hold of a column: surface, Sun, well-mixed gases, ozone; (sample, value).

    Every row of the table is given these numbers, whatever it makes of temperature and humidity.
    """
    cosine = np.maximum(np.cos(np.deg2rad(data["solar_zenith_angle"].values[site])), 0.0)
    surface = data["surface_temperature"].values[experiment, site]
    of_site = [data[name].values[site] for name in ("surface_albedo", "surface_emissivity", "total_solar_irradiance")]
    of_site = [np.round(own, 4) for own in of_site]  # an ocean is an ocean
    gases = [data[name].values[experiment] for name in ("methane_GM", "nitrous_oxide_GM", "cfc11eq_GM", "cfc12eq_GM")]
    numbers = [
        cosine, np.sqrt(cosine), 1 / (cosine + 0.2), *of_site, surface, (surface / 300) ** 4,
        surface - data["temp_layer"].values[experiment, site, -1], data["pres_level"].values[site, -1],
        np.log(data["carbon_dioxide_GM"].values[experiment]), *(np.sqrt(one) for one in gases[:2]), *gases[2:],
    ]  # fmt: skip
    ozone = np.log(data["ozone"].values[experiment, site])
    thirds = np.array_split(ozone, max(1, ozone.shape[1] // 3), axis=1)
    return np.stack([*numbers, *(part.mean(axis=1) for part in thirds)], axis=1)
