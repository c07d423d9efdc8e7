"""ConstraintConfig: one constraint on predicted values, as it is written in YAML."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from ..common.errors import EarthSSLError, check_settings, nearest
from ..fields.variables import LEVELLED, VARIABLES, lookup

NON_NEGATIVE, BOUNDED, INTEGRAL = "non_negative", "bounded", "integral"
DIVERGENCE, ENERGY = "divergence", "energy"
REPORT, PENALTY, HARD = "report", "penalty", "hard"
HOWS = (REPORT, PENALTY, HARD)
SOFTPLUS, CLAMP, SIGMOID, SCALE, SHIFT, PROJECTION = "softplus", "clamp", "sigmoid", "scale", "shift", "projection"
# Of each kind: the settings of its own, and the layers that there are, the usual one first.
OWN: dict[str, tuple[str, ...]] = {
    NON_NEGATIVE: ("variables", "form", "sharpness"),
    BOUNDED: ("variables", "lower", "upper", "form"),
    INTEGRAL: ("variables", "total", "form"),
    DIVERGENCE: ("u", "v", "form"),
    ENERGY: ("variables", "u", "v"),
}
FORMS: dict[str, tuple[str, ...]] = {
    NON_NEGATIVE: (SOFTPLUS,),
    BOUNDED: (CLAMP, SIGMOID),
    INTEGRAL: (SCALE, SHIFT),
    DIVERGENCE: (PROJECTION,),
    ENERGY: (),
}
KINDS = tuple(OWN)


@dataclass(frozen=True)
class ConstraintConfig:
    """One constraint on predicted values in units; missing cells are left out.

    Attributes:
        kind: non_negative, bounded, integral (the area mean is kept), divergence (that of a wind is zero) or energy
            (half the area mean of a sum of squares is the truth's).
        how: report (measure the violation only), penalty (add it to the loss) or hard (a layer behind the decoder sees
            to it; not for energy, as the truth's is not known when a field is made).
        weight: Of a penalty; only with how penalty.
        variables: Those that it holds for, each by itself; for energy, those that are summed.
        u, v: Eastward and northward component of a wind, for divergence and energy.
        lower, upper: Bounds, in units.
        total: Area mean to be kept, in units; null for that of the last step that the encoder sees.
        form: The layer: softplus (non_negative), clamp or sigmoid (bounded), scale or shift (integral), projection
            (divergence); "" for the first of these.
        sharpness: Of the softplus, only with one: at the bound it adds log 2 / sharpness standard deviations.
    """

    kind: str
    how: str = PENALTY
    weight: float = 1.0
    variables: list[str] = field(default_factory=list)
    u: str = ""
    v: str = ""
    lower: float | None = None
    upper: float | None = None
    total: float | None = None
    form: str = ""
    sharpness: float = 4.0

    def __post_init__(self) -> None:
        check_settings("constraints", self, {"kind": KINDS})
        where = f"constraints, {self.kind}"
        check_settings(where, self, {"how": HOWS, "weight sharpness": "(0, inf)"})
        for one in fields(self):
            usual = [] if one.name == "variables" else one.default
            known = (*OWN[self.kind], "kind", "how", "weight")
            if one.name not in known and getattr(self, one.name) != usual:
                raise EarthSSLError(
                    f"{where}: expected settings out of {', '.join(known)}, got {one.name}; leave it out"
                )
        self._check_layer(where)
        self._check_names(where)
        self._check_bounds(where)
        if self.total is not None and not math.isfinite(self.total):
            raise EarthSSLError(f"{where}: expected a total that is finite, got {self.total}")

    def _check_layer(self, where: str) -> None:
        forms = FORMS[self.kind]
        if self.how == HARD and not forms:
            raise EarthSSLError(
                f"{where}: expected how {REPORT} or {PENALTY}, as the truth's energy is not known beforehand, got "
                f"{HARD}"
            )
        if self.form and self.form not in forms:
            raise EarthSSLError(
                f"{where}: expected form {' or '.join(forms)}, got '{self.form}'." + nearest(self.form, forms)
            )
        if self.form and self.how != HARD:
            raise EarthSSLError(f"{where}: expected a form with how {HARD} only, got {self.form}; leave it out")
        if self.weight != 1 and self.how != PENALTY:
            raise EarthSSLError(
                f"{where}: expected a weight with how {PENALTY} only, got {self.weight} with {self.how}; leave it out"
            )
        if self.sharpness != 4 and self.layer != SOFTPLUS:
            raise EarthSSLError(
                f"{where}: expected a sharpness with how {HARD} only, whose layer is a {SOFTPLUS}, got "
                f"{self.sharpness} with {self.how}; leave it out"
            )

    def _check_names(self, where: str) -> None:
        wind = bool(self.u or self.v)
        if self.kind in (DIVERGENCE, ENERGY) and (wind or self.kind == DIVERGENCE) and not (self.u and self.v):
            raise EarthSSLError(
                f"{where}: expected both components of a wind, u and v, got u '{self.u}' and v '{self.v}'"
            )
        if self.kind != DIVERGENCE and wind == bool(self.variables):
            expected = "either variables, or u and v" if self.kind == ENERGY else "the names of its variables"
            raise EarthSSLError(f"{where}: expected {expected}, got {'both' if wind else 'none'}")
        if len(set(self.variables)) < len(self.variables):
            raise EarthSSLError(f"{where}: expected each variable once, got {', '.join(self.variables)}")
        for name, component in ((self.u, "u"), (self.v, "v")):
            if name and _component(name) not in (component, None):
                raise EarthSSLError(f"{where}: expected the component {component} of a wind, got '{name}'")
        if self.u and _component(self.u) and lookup(self.u).partner != self.v:
            raise EarthSSLError(
                f"{where}: expected the two components of one wind, {self.u} and {lookup(self.u).partner}, got v "
                f"'{self.v}'"
            )

    def _check_bounds(self, where: str) -> None:
        bounds = [bound for bound in (self.lower, self.upper) if bound is not None]
        if self.kind == BOUNDED and not (bounds and all(map(math.isfinite, bounds))):
            raise EarthSSLError(
                f"{where}: expected a bound at least, lower or upper, in units, got {self.lower} and {self.upper}"
            )
        if len(bounds) == 2 and not bounds[0] < bounds[1]:
            raise EarthSSLError(f"{where}: expected lower below upper, got {self.lower} and {self.upper}")
        if self.form == SIGMOID and len(bounds) < 2:
            raise EarthSSLError(f"{where}: a sigmoid lies between two bounds, got one; give both, or take {CLAMP}")

    @property
    def layer(self) -> str:
        """Name of the layer; "" where there is none."""
        return (self.form or FORMS[self.kind][0]) if self.how == HARD else ""

    @property
    def names(self) -> tuple[str, ...]:
        """All names that it speaks of."""
        return (*self.variables, *(name for name in (self.u, self.v) if name))


def _component(name: str) -> str | None:
    """Return u, v, or "" for a scalar; None where the table does not know the name (a label's)."""
    match = LEVELLED.fullmatch(name)
    if name not in VARIABLES and not (match and match[1] in VARIABLES and VARIABLES[match[1]].on_levels):
        return None
    return lookup(name).component
