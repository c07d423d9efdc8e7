"""The verdict in words: what the paired differences carry, and not a word more."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..evaluation.html import Html, element, joined
from .probe_results import Difference, Estimate, Results, RowInfo

MARKS = {"better": "▲", "worse": "▼", "undecided": "·"}


def number(value: float, decimals: int = 2, *, plus: bool = False) -> str:
    """Return a number as text: no leading zero, a true minus sign, an en dash where there is none."""
    if not math.isfinite(value):
        return "–"
    text = f"{abs(value):.{decimals}f}"
    text = text[1:] if text.startswith("0.") else text
    zero = float(text) == 0
    sign = "" if zero else "−" if value < 0 else "+" if plus else ""
    return sign + text


def bracket(estimate: Estimate, *, plus: bool = False) -> str:
    """Return an interval as "[low, high]", empty where there is none.

    A bound that two decimals would round to zero has three, so that an interval which excludes zero is seen
    to do so.
    """
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)) or estimate.low == estimate.high:
        return ""
    low, high = (number(b, 3 if abs(b) < 0.005 else 2, plus=plus) for b in (estimate.low, estimate.high))
    return f"[{low}, {high}]"


def with_interval(estimate: Estimate, *, plus: bool = False) -> str:
    """Return "value [low, high]"."""
    return f"{number(estimate.value, plus=plus)} {bracket(estimate, plus=plus)}".rstrip()


def listed(items: Sequence[Html]) -> Html:
    """Return "a, b and c"."""
    return items[0] if len(items) == 1 else joined([joined(items[:-1], ", "), " and ", items[-1]])


def named(name: str, *words: str) -> Html:
    """Return a row's name, set off from the words after it."""
    return joined([element("strong", name), *words])


def lead_span(leads: Sequence[int]) -> str:
    """Return the leads in words: "leads 1 to 18 months"."""
    return f"lead {leads[0]} months" if len(leads) == 1 else f"leads {leads[0]} to {leads[-1]} months"


def compare(row: str, found: Sequence[Difference], span: str) -> Html:
    """Return one sentence on a row against its references, in their order: a loss is not put behind a win."""
    said: dict[str, list[Html]] = {}
    for d in found:
        if d.verdict == "undecided":
            words = f" ({with_interval(d.estimate, plus=True)})"
        else:
            words = f" by {with_interval(d.estimate if d.verdict == 'better' else -d.estimate)}"
        said.setdefault(d.verdict, []).append(named(d.reference, words))
    phrases = {
        "better": ["beats ", ""],
        "worse": ["loses to ", ""],
        "undecided": ["against ", " the difference is undecided"],
    }
    parts = [joined([phrases[v][0], listed(items), phrases[v][1]]) for v, items in said.items()]
    return joined([f"Averaged over {span}, ", named(row), " ", joined(parts, "; "), "."])


def verdict(results: Results) -> list[Html]:
    """Return the verdict of a probe as sentences, the result first.

    The subject is the pretrained row whose pooling validation chose; where no row is pretrained, this is said.
    """
    subject = results.primary("pretrained")
    if subject is None:
        return [Html("No pretrained encoder was probed: this page holds baselines only.")]
    pairs = [results.difference(subject.name, name) for name in results.key_references(subject)]
    found = [pair for pair in pairs if pair is not None]
    if not found:
        return [named(subject.name, " was compared with no other row."), _horizon(results, subject)]
    sentences = [compare(subject.name, found, lead_span(results.leads)), *_consequences(results, found)]
    return [*sentences, *_equal_poolings(results, subject), _horizon(results, subject)]


def _consequences(results: Results, found: Sequence[Difference]) -> list[Html]:
    """Return what follows from the comparison with the two rows that matter most."""
    roles = {row.name: row.role for row in results.rows}
    words = {
        "untrained": {
            "undecided": "So this test does not show that pretraining, rather than the architecture, earns the skill.",
            "worse": "So pretraining cost skill: the same network does better with random weights.",
        },
        "PCA": {
            "undecided": "So this test does not show that the encoder offers more than principal components do.",
            "worse": "So principal components of the raw input, with the same head, are the better features here.",
        },
    }
    said = []
    for role, sentence in words.items():
        verdicts = {d.verdict for d in found if roles.get(d.reference) == role}
        said += [Html(sentence[outcome]) for outcome in ("worse", "undecided") if outcome in verdicts][:1]
    return said


def _equal_poolings(results: Results, subject: RowInfo) -> list[Html]:
    """Return a sentence on the other pretrained rows, each beside its untrained twin of the same pooling."""
    said: dict[str, list[Html]] = {"better": [], "worse": [], "undecided": []}
    for row in results.of_role("pretrained"):
        twin = results.twin(row)
        if row.name == subject.name or twin is None or twin.variant != row.variant:
            continue
        pair = results.difference(row.name, twin.name)
        if pair is not None:
            said[pair.verdict].append(named(row.variant or row.name, f" ({with_interval(pair.estimate, plus=True)})"))
    parts = [
        joined([f"{words} with ", listed(said[outcome])])
        for outcome, words in (("better", "ahead"), ("worse", "behind"), ("undecided", "undecided"))
        if said[outcome]
    ]
    return [joined(["At equal pooling, against its untrained twin, it is ", joined(parts, "; "), "."])] if parts else []


def _horizon(results: Results, subject: RowInfo) -> Html:
    """Return up to which lead the rows keep r of .5."""

    def reach(name: str) -> Html:
        last = results.last_lead(name)
        return named(name, " none" if last is None else f" {last} months")

    names = dict.fromkeys([subject.name, *results.key_references(subject)])
    names |= dict.fromkeys(row.name for row in results.of_role("persistence"))
    return joined(["Last lead with r ≥ .5: ", joined([reach(name) for name in names], ", "), "."])
