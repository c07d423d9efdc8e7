"""What constraints change: forecasts of pretext decoders on the test block, side by side, with what each violates.

python benchmarks/constraints.py STORE RUN … [--u u500 --v v500] [--every 2]

The runs forecast (lead_time) the same store. For each: skill over the climatology by lead, the root mean square of the
divergence of the forecast wind, energy over the truth's, and the difference of the mean skill from the first run's,
with a 95 % interval by a paired bootstrap over calendar months of the test block. A further row: the first run's
forecasts projected onto zero divergence afterwards, untrained for it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from earthssl.downstream.metrics.paired_bootstrap import compare
from earthssl.pretext import TASKS
from earthssl.pretext.prediction.lead_time import LeadTime
from earthssl.ssl.constraints.config import DIVERGENCE, ENERGY, HARD, REPORT, ConstraintConfig
from earthssl.ssl.constraints.field_constraints import FieldConstraints
from earthssl.ssl.data.windows import Windows
from earthssl.ssl.model.tokens import patchify, unpatchify
from earthssl.ssl.store.store import Store
from earthssl.ssl.training.pretrain import load_objectives

BATCH = 32


def main() -> None:
    """Print a row a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--u", default="u500")
    parser.add_argument("--v", default="v500")
    parser.add_argument("--every", type=int, default=2, help="windows between those that are scored")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = Store(options.store)
    settings = [ConstraintConfig(kind, REPORT, u=options.u, v=options.v) for kind in (DIVERGENCE, ENERGY)]
    settings.append(ConstraintConfig(DIVERGENCE, HARD, u=options.u, v=options.v))
    measure, project = (
        FieldConstraints(own, store.variables, store.grid, store.statistics) for own in (settings[:2], settings[2:])
    )
    errors, powers, months, said, leads = [], [], np.empty(0), [], [0]
    names = [*options.runs, f"{options.runs[0]}, projected afterwards"]
    for name in names:
        run = Path(name.removesuffix(", projected afterwards"))
        layer = project if name == names[-1] else None
        error, powers, months, violations, leads = forecast(store, run, measure, options.every, layer)
        errors.append(error)
        said.append(violations)
    _, units = np.unique(months, return_inverse=True)

    def skill(weight: np.ndarray) -> np.ndarray:
        """Return each run's mean skill over variables and leads for weights of the windows."""
        return np.stack([(1 - (weight @ e.reshape(len(e), -1)) / (weight @ powers.reshape(len(e), -1))).mean()
                         for e in errors])  # fmt: skip

    scores, differences = compare(skill, units, names, names[:1])
    print(scores.to_string(index=False))
    print(differences.to_string(index=False))
    for run, error, violations in zip(names, errors, said, strict=True):
        by_lead = (1 - error.sum(0) / powers.sum(0)).mean(1)
        found = ", ".join(f"{name} {value:.3g}" for name, value in violations.items())
        print(f"{run}: skill at leads {leads}: {by_lead.round(4).tolist()}; {found}")


def forecast(
    store: Store, run: Path, measure: FieldConstraints, every: int, project: FieldConstraints | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, float], list[int]]:
    """Return squared errors and powers (window, lead, variable), months, mean violations, and the leads."""
    encoder, objectives = load_objectives(run / "checkpoint", TASKS)
    task = objectives.tasks()["lead_time"]
    assert isinstance(task, LeadTime)
    windows, leads = Windows(store, "test", objectives.span, 0), task.config.leads
    area = torch.from_numpy(store.grid.area)
    errors, powers, months, total, batches = [], [], [], dict[str, float](), 0
    with torch.no_grad():
        for chosen in torch.arange(0, len(windows), every).split(BATCH):
            batch = windows.batch(chosen).to("cpu")
            picks = torch.arange(len(leads)).expand(len(batch), -1)
            truth = task.truth(batch, picks)
            guess = unpatchify(task.predict(encoder, batch, picks), patchify(truth, task.patch), task.patch)
            scene = measure.scene(truth.times, truth.values, truth.valid)
            if project is not None:
                guess = project.hold(guess, scene, True).values
            for name, value in measure.constraints.violations(guess, scene).items():
                total[name] = total.get(name, 0.0) + float(value)
            batches += 1
            for kept, off in ((errors, guess - truth.values), (powers, truth.values)):
                kept.append(((off**2) * area).sum((-1, -2))[:, 0].unflatten(0, (len(batch), -1)).numpy())
            months.append(batch.times[:, 0].numpy().astype("datetime64[s]").astype("datetime64[M]"))
    mean = {name: value / batches for name, value in total.items()}
    return np.concatenate(errors), np.concatenate(powers), np.concatenate(months), mean, leads


if __name__ == "__main__":
    main()
