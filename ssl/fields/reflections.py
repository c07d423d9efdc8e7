"""Turning fields on the grid: reflections and quarter turns, vector components turned along."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..common.errors import EarthSSLError
from .variables import vector_partner

# Shape-keeping on any rectangle: the group {identity, east-west, north-south, half turn}.
FLIPS = ("identity", "east-west", "north-south", "half turn")
# On squares only, anticlockwise with north up.
TURNS = ("identity", "quarter turn", "half turn", "three-quarter turn")


def turn_cells(x: Tensor, kind: str) -> Tensor:
    """Return the cells of (..., row, column) moved; values are left as they are.

    Raises:
        EarthSSLError: If a quarter turn is asked of a field that is not square.
    """
    if kind == "identity":
        return x
    if kind == "east-west":
        return x.flip(-1)
    if kind == "north-south":
        return x.flip(-2)
    if kind == "half turn":
        return x.flip((-1, -2))
    if kind not in TURNS:
        raise EarthSSLError(f"expected an orientation out of {', '.join({*FLIPS, *TURNS})}, got '{kind}'")
    if x.shape[-1] != x.shape[-2]:
        raise EarthSSLError(f"a {kind} needs a square field, got {x.shape[-2]}×{x.shape[-1]}; take a square crop")
    return torch.rot90(x, 1 if kind == "quarter turn" else 3, (-2, -1))


def turn(
    values: Float[Tensor, "*batch variable row column"], variables: tuple[str, ...], kind: str
) -> Float[Tensor, "*batch variable row column"]:
    """Return the fields as seen after turning the map: cells move and components turn along.

    Reflections: east-west turns u into -u, north-south v into -v; a vorticity changes its sign in both,
    being a pseudoscalar. A quarter turn anticlockwise takes the vector (u, v) to (-v, u).

    Raises:
        EarthSSLError: If a quarter turn is asked of one wind component without the other.
    """
    moved = turn_cells(values, kind)
    if kind == "identity":
        return moved
    channels = []
    for k, name in enumerate(variables):
        partner = vector_partner(name)
        if partner is None:
            odd = is_pseudoscalar(name) and kind in ("east-west", "north-south")
            channels.append(-moved[..., k, :, :] if odd else moved[..., k, :, :])
            continue
        other, component = partner
        channels.append(_component(moved, variables, k, other, component, kind))
    return torch.stack(channels, -3)


def _component(moved: Tensor, variables: tuple[str, ...], k: int, other: str, component: str, kind: str) -> Tensor:
    mine = moved[..., k, :, :]
    if kind == "east-west":
        return -mine if component == "u" else mine
    if kind == "north-south":
        return -mine if component == "v" else mine
    if kind == "half turn":
        return -mine
    if other not in variables:
        raise EarthSSLError(f"a {kind} of {variables[k]} needs its partner {other}; add it, or leave both out")
    theirs = moved[..., variables.index(other), :, :]
    minus_first = kind == "quarter turn"
    if component == "u":
        return -theirs if minus_first else theirs
    return theirs if minus_first else -theirs


def is_pseudoscalar(name: str) -> bool:
    """Whether a field changes its sign in a mirror: vorticity (vo, vo850) and potential vorticity (pv)."""
    return name.rstrip("0123456789") in ("vo", "pv")


def invariant(mask: Bool[Tensor, "*batch row column"], kinds: tuple[str, ...]) -> Bool[Tensor, "*batch row column"]:
    """Return the cells that are valid under every turn of the group: a mask that does not tell which was taken."""
    out = mask
    for kind in kinds:
        out = out & turn_cells(mask, kind)
    return out
