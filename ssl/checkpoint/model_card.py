"""The model card: Markdown made from a checkpoint's record, with the header that Hugging Face reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ..model.encoder import SIZES
from ..model.health import Health
from .record import Record

# Licences by the names that Hugging Face knows; others are given in words under "other".
LICENCES = (("cc0", "cc0-1.0"), ("cc by 4", "cc-by-4.0"), ("cc-by-4", "cc-by-4.0"), ("apache", "apache-2.0"))
MOST_TARGETS = 6
OWN = ("pretrained", "fine-tuned")  # what rows of the encoder itself are called
CITATION = """\
@software{earthssl,
  title = {earthssl: self-supervised pretraining on reanalysis, and proof of what the frozen encoder is worth},
  year = {2026}
}"""
HEALTH = {
    "std": "spread of the normalised features (1 even, 0 constant)",
    "effective_rank": "effective rank of the features",
    "mean_cosine": "mean cosine between windows",
    "season_share": "share of variance that is season",
    "trend_share": "share of variance that is trend",
    "place_share": "share of variance that is place",
}


def card(record: Record, scores: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Return the card in Markdown, made from nothing but the record.

    Args:
        record: Of the checkpoint.
        scores: Probe tables, see docs/checkpoint-format.md; those in the record where None.
    """
    scores = record.extra.get("scores", []) if scores is None else scores
    parts = [
        _header(record),
        f"# {_title(record)}\n\n{_what(record)}",
        "## Data\n\n" + _data(record),
        "## Variables\n\n" + _table(["variable", "units"], zip(record.variables, record.units, strict=True)),
        "## Training\n\n" + _training(record),
        "## Health\n\n" + _health(record),
        "## Probe scores\n\n" + _scores(scores),
        *(["## Fine-tuned for\n\n" + _task(record.task)] if record.task else []),
        "## Intended use and limits\n\n" + _limits(record),
        "## How to load\n\n" + _loading(record),
        f"## Licence\n\n{_plain(record.licence)}",
        f"## Citation\n\n```bibtex\n{CITATION}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def headline(table: Mapping[str, Any]) -> str:
    """Return a probe table in a line: the encoder's row that validation chose, and the best of the rest beside it.

    The first row of the encoder stands for it where none was chosen: the best on test would flatter it.
    """
    targets = _targets(table)
    at = targets[len(targets) // 2]
    rows = [row for row in table["rows"] if row.get("target", "") == at and row.get("kind") != "known"]
    own = sorted((row for row in rows if row["name"].startswith(OWN)), key=lambda row: "[chosen]" not in row["name"])
    rest = [row for row in rows if row not in own]
    sign = 1 if table["better"] == "higher" else -1
    shown = [*own[:1], *([max(rest, key=lambda row: sign * row["value"])] if rest else [])]
    words = ", ".join(f"{row['name']} {row['value']:.3g}" for row in shown)
    return f"{table['task']}: {words} ({table['metric']}{', ' + at if at else ''})"


def _header(record: Record) -> str:
    """Return the YAML header of a Hugging Face model card."""
    lower = record.licence.lower()
    known = next((name for start, name in LICENCES if lower.startswith(start)), None)
    tags = ["earth-science", "climate", "weather", "reanalysis", "self-supervised", "safetensors"]
    tags += [*_mapping(record.config, "objectives")] + (["synthetic"] if record.synthetic else [])
    header: dict[str, Any] = {"library_name": "earthssl", "license": known or "other"}
    if known is None:
        header["license_name"] = _plain(record.licence)[:200]
    header["tags"] = [_plain(str(tag)) for tag in tags]
    return "---\n" + yaml.safe_dump(header, sort_keys=False, allow_unicode=True) + "---"


def _title(record: Record) -> str:
    what = "Fine-tuned" if record.task else "Pretrained"
    return f"{what} {record.encoder.size} encoder of {', '.join(record.variables)}"


def _what(record: Record) -> str:
    width, depth, heads = SIZES[record.encoder.size]
    steps, rows, columns = record.encoder.patch
    synthetic = " **The data are synthetic: it says what the method can do, not what the Earth does.**"
    return (
        f"A transformer ({depth} blocks of width {width}, {heads} heads) over windows of {record.encoder.window} time "
        f"steps, cut into patches of {steps} × {rows} × {columns} (steps, rows, columns). It was pretrained without "
        f"labels; frozen, it turns fields into features.{synthetic if record.synthetic else ''}"
    )


def _data(record: Record) -> str:
    grid, splits = record.grid, record.splits
    blocks = [(name, *(str(end.astype("datetime64[D]")) for end in block)) for name, block in splits.named().items()]
    lines = [
        f"- Source: {_plain(record.source)}",
        f"- Grid: {grid}",
        f"- Time step: {record.step_days:g} days",
        f"- Fingerprint of the training store: `{_plain(record.fingerprint)}`",
        f"- Climatology and scale from the training block only, by {record.statistics.groups} with "
        f"{record.statistics.harmonics} harmonics of the year",
    ]
    table = _table(["block", "first day", "last day"], blocks)
    return "\n".join(lines) + f"\n\n{table}\n\nThe blocks lie at least {splits.embargo_days:g} days apart."


def _training(record: Record) -> str:
    training, objectives = _mapping(record.config, "training"), _mapping(record.config, "objectives")
    lines = []
    for name, settings in objectives.items():
        weight = settings.get("weight", 1.0) if isinstance(settings, dict) else 1.0
        lines.append(f"- Pretext task {_plain(name)}, weight {_plain(str(weight))}")
    batch = f", batches of {_plain(str(training['batch_size']))} windows" if "batch_size" in training else ""
    rate = f", learning rate {_plain(str(training['lr']))}" if "lr" in training else ""
    lines.append(f"- {record.steps} steps{batch}{rate}, seed {record.seed}")
    if record.config.get("start_from"):
        lines.append("- Started from another checkpoint; what was taken over stands in the record")
    lines.append("- " + ", ".join(f"{_plain(name)} {_plain(version)}" for name, version in record.versions.items()))
    return "\n".join(lines)


def _mapping(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a part of the config; it is free text to a checkpoint, and may be anything."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _health(record: Record) -> str:
    if set(record.health) != set(HEALTH):
        return "Not measured."
    warnings = Health(**record.health).warnings(SIZES[record.encoder.size][0])
    verdict = "Not collapsed: no warning." if not warnings else "Warnings: " + "; ".join(warnings) + "."
    rows = [(words, f"{record.health[name]:.3g}") for name, words in HEALTH.items()]
    return f"{verdict}\n\n{_table(['measure', 'value'], rows)}"


def _scores(scores: Sequence[Mapping[str, Any]]) -> str:
    if not scores:
        return "None attached: this card claims nothing about what the features are worth; see `earthssl probe`."
    return "\n\n".join(map(_score_table, scores))


def _targets(table: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(row.get("target", "") for row in table["rows"]))


def _score_table(table: Mapping[str, Any]) -> str:
    targets = _targets(table)[:MOST_TARGETS]
    names = list(dict.fromkeys(row["name"] for row in table["rows"]))
    cells = {(row["name"], row.get("target", "")): _value(row) for row in table["rows"]}
    body = [[name, *[cells.get((name, target), "–") for target in targets]] for name in names]
    where = f", test {table['test']}" if table.get("test") else ""
    synthetic = ", synthetic data" if table.get("synthetic") else ""
    lines = [
        f"### {_plain(table['task'])}",
        f"{_plain(table['metric'])}, {table['better']} is better{_plain(where)}{synthetic}; [95 % interval].",
        _table(["row", *[target or "score" for target in targets]], body),
    ]
    if table.get("verdicts"):
        lines.append("\n".join(f"- {_plain(words)}" for words in table["verdicts"]))
    if table.get("convention"):
        lines.append(_plain(table["convention"]))
    if table.get("command"):
        lines.append(f"Made by `{_plain(table['command']).replace('`', '')}`.")
    return "\n\n".join(lines)


def _value(row: Mapping[str, Any]) -> str:
    low, high = row.get("low"), row.get("high")
    return f"{row['value']:.4g}" + ("" if low is None or high is None else f" [{low:.4g}, {high:.4g}]")


def _task(task: Mapping[str, Any]) -> str:
    parent = task.get("parent") or {}
    targets = [f"{t.get('name')} ({t.get('units')})" if isinstance(t, dict) else str(t) for t in task["targets"]]
    lines = [f"- {task['kind']}: {', '.join(map(_plain, targets))}"]
    shown = [name for name in ("classes", "mode", "pooling", "lead", "variables_added") if task.get(name)]
    lines += [f"- {name.replace('_', ' ')}: {_plain(str(task[name]))}" for name in shown]
    if parent:
        lines.append(f"- from {_plain(str(parent.get('name')))}, encoder `{_plain(str(parent.get('sha256')))}`")
    return "\n".join(lines)


def _limits(record: Record) -> str:
    blocks = [" to ".join(str(end)[:10] for end in block) for block in record.splits.train_blocks]
    inside = "those blocks" if blocks[1:] else "that block"
    lines = [
        "- For research: features for probes, fine-tuning and gap filling. Not for operational forecasts or warnings.",
        f"- It knows {', '.join(record.variables)} on this grid at this time step; other grids and steps are refused, "
        "missing variables are reported, units are checked.",
        f"- It saw {' and '.join(blocks)}; whatever is evaluated inside {inside} is not independent.",
    ]
    if record.synthetic:
        lines.append("- Trained on a synthetic planet: no statement about the Earth follows from it.")
    return "\n".join(lines)


def _loading(record: Record) -> str:
    names = ", ".join(record.variables)
    return (
        "```python\nimport earthssl\n\n"
        f'features = earthssl.load_encoder("FOLDER").embed(dataset)  # xarray.Dataset with {names}\n```\n\n'
        "`earthssl verify FOLDER` proves that the folder is whole and does what it did at home."
    )


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [[_cell(cell) for cell in row] for row in [head, ["---"] * len(head), *rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return _plain(str(value)).replace("|", "\\|")


def _plain(text: str) -> str:
    """Return a text from a record as one line that Markdown cannot take for a tag or an image."""
    return re.sub(r"\s+", " ", text).replace("<", "&lt;").replace("![", "! [").strip()
