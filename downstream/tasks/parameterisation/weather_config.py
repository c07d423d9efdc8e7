"""Settings of the task parameterisation_weather, and what its numbers mean."""

from __future__ import annotations

from dataclasses import dataclass, field

from ....ssl.model.encoder import EncoderConfig
from ...evaluation.config import TaskConfig
from .closures import EXPORTS
from .weather_truth import DAY

CONVENTION = (
    "Target: at an instant, the truncated rate of change of potential vorticity at T42 less that of T21 in the "
    "truncated state; every {spacing} days of {train_years} + {val_years} + {test_years} years of T42 (train, "
    "validation, test). Skill: R², squared error over the true variance of each level, 1 - that / that of the training "
    "mean; interval over months. Every learnt row adds to the drag (a regression on the three levels for each total "
    "wavenumber); heads: ridge; features, heads a row of patches or a patch, penalty, and a gain by total wavenumber "
    "chosen on validation, nothing refitted with it. Coupled: T21 for {years} years, mean, drag, noise at every step "
    "of 2 h, the rest, of which encoders are exported files ({export}), every {every} steps. Climate: {runs} runs from "
    "test states against all of T42. Forecasts: z500 poleward of 20°, {cases} test states, perfect start, {members} "
    "members (deterministic: 1); fair CRPS against that of training days of the season. AR(1): noise with the "
    "covariance of the residuals and, by total wavenumber, their memory. Intervals over months and runs, given these "
    "seeds and this truth."
)


@dataclass(frozen=True)
class WeatherParameterisationConfig(TaskConfig):
    """Settings of the task, beside those of every task; store: of the source `weather`, T21, daily, the whole globe.

    Attributes:
        train_years, val_years, test_years: Years of T42, each a member of its own, made in the cache where missing.
        truth_seed: Of T42's first disturbances.
        spacing: Days from one sample to the next.
        years: Whole years of each long run.
        runs: Long runs, each from a start and with noise of its own.
        every: Model steps of 2 h from one call of a learnt closure to the next; divides 12.
        forecast_leads: Days.
        cases: Forecasts, from evenly spaced test states.
        members: Of a stochastic forecast.
        noise_lag: Model steps over which the memory of the residuals is measured, at most 12.
        export: torchscript or onnx (extra `onnx`): the kind of file that encoders are coupled through.
        width: Channels of the local network.
        seed: Of the noise.
    """

    task: str = "parameterisation_weather"
    train_years: int = 8
    val_years: int = 1
    test_years: int = 3
    truth_seed: int = 0
    spacing: int = 3
    years: int = 2
    runs: int = 10
    every: int = 3
    forecast_leads: list[int] = field(default_factory=lambda: [1, 3, 5])
    cases: int = 30
    members: int = 10
    noise_lag: int = 1
    export: str = "torchscript"
    width: int = 24
    seed: int = 0
    block: int = 1
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig("nano", 2, (1, 4, 4)))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check({
            "train_years val_years test_years spacing years every noise_lag width": "≥ 1", "runs cases": "≥ 4",
            "members": "≥ 2", "seed truth_seed": "≥ 0", "forecast_leads": "> 0", "export": EXPORTS,
        })  # fmt: skip
        self.expect(self.every <= DAY and DAY % self.every == 0, f"a divisor of the {DAY} steps of a day", "every")
        self.expect(self.noise_lag <= DAY, f"at most the {DAY} steps of a day", "noise_lag")
        whole = all(isinstance(lead, int) for lead in self.forecast_leads)
        self.expect(whole and max(self.forecast_leads) <= 30, "whole days, at most 30", "forecast_leads")
        self.expect(self.spacing <= 30, "at most 30 days", "spacing")
