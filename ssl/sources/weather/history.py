"""History: the true states of one world, made once, kept in a cache folder, and gone on with where they stopped.

Several members run side by side, which is what makes the model fast, and are laid end to end in time: each covers some
whole years after a spin-up of its own. States are kept at every step of the source as packed coefficients, in files of
64 steps of all members, so whichever year is read, nothing is computed twice. One process writes, others wait for it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...common.errors import EarthSSLError
from ...common.files import check_disk, digest, disk_full_is_clear, waited_for, write_json
from .sphere import Sphere
from .vertical import SPEED
from .world import World, relaxed_shear

if TYPE_CHECKING:
    import torch

FORMAT = 1  # raise it when the same options would give other states
BLOCK = 64  # steps of all members a file
SPIN_UP = 180  # days
FIRST_WIND = 0.003  # wind of the first disturbances, as a share of the turning of the Earth: 1.4 m/s each coefficient


@dataclass(frozen=True)
class Plan:
    """Which states a history holds.

    Attributes:
        world: Parameters of the model.
        truncation: Of the spherical harmonics.
        seed: Of the first disturbances.
        first_days: Day of each member's 1 January, counted from 2000-01-01, (member,).
        days: Days that the longest member covers.
        per_day: Steps a day that are kept, 1 or 2.
    """

    world: World
    truncation: int
    seed: int
    first_days: tuple[int, ...]
    days: int
    per_day: int

    @property
    def records(self) -> int:
        """States kept of each member."""
        return self.days * self.per_day

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return 12 * (self.truncation + 1) ** 2 * len(self.first_days) * self.records


class History:
    """The states of one plan in its cache folder.

    Args:
        plan: What it holds.
        folder: Of all histories; this one gets a folder of its own in it.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.sphere = Sphere(plan.truncation)
        record = {"format": FORMAT, **dataclasses.asdict(plan)}
        self.folder = folder / f"world-{plan.world.number}-seed-{plan.seed}-{digest(record)[:16]}"
        self._record = record

    def states(self, member: int, steps: np.ndarray) -> np.ndarray:
        """Return the potential vorticity of a member at steps of its own, made where it is not yet at hand.

        Packed coefficients without f and mountains, (step, level, known), float32, in turnings of the Earth.

        Raises:
            EarthSSLError: If a file of the cache is damaged.
        """
        self.make(int(steps.max()) + 1)
        found = np.empty((len(steps), 3, len(self.sphere.known[0])), np.float32)
        for block in np.unique(steps // BLOCK):
            rows = steps // BLOCK == block
            found[rows] = self._read(int(block))[steps[rows] - block * BLOCK, member]
        return found

    def make(self, steps: int) -> None:
        """Make the states of all members up to so many steps, as far as they are missing; shows how far it is."""
        blocks = -(-min(steps, self.plan.records) // BLOCK)
        if self._file(blocks - 1).is_file():  # files appear in order
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with waited_for(self.folder / ".lock"), _one_thread(), disk_full_is_clear(self.folder):
            missing = [block for block in range(blocks) if not self._file(block).is_file()]
            if not missing:
                return
            left = self.plan.bytes * len(missing) * BLOCK // self.plan.records
            check_disk(self.folder, left, "weather: what is still to be made", "or name another folder with cache")
            write_json(self.folder / "history.json", self._record)
            states = self._run(missing[0])
            for block in _shown(missing, f"weather: world {self.plan.world.number}"):
                self._write(block, np.stack([next(states) for _ in range(self._steps(block))]))

    def _run(self, block: int) -> Iterator[np.ndarray]:
        """Yield the states (member, level, known) step by step from the first of a block on."""
        import torch

        from .model import STEPS, Model

        plan = self.plan
        model = Model(self.sphere, plan.world)
        per_record = STEPS[plan.truncation] // plan.per_day
        first_days = np.array(plan.first_days)

        def forward(state: torch.Tensor, step: int) -> torch.Tensor:
            """From a step that is kept to the next; the driving is that of the day."""
            driving = model.driving(first_days + step // plan.per_day)
            for _ in range(per_record):
                state = model.step(state, driving, 1 / STEPS[plan.truncation])
            return state

        with torch.inference_mode():
            if block:
                state = to_model(self.sphere, np.array(self._read(block - 1)[-1]))
                state = forward(state, block * BLOCK - 1)
            else:
                state = model.state_of(to_model(self.sphere, self.first_disturbances()))
                for step in range(-SPIN_UP * plan.per_day, 0):
                    state = forward(state, step)
            step = block * BLOCK
            while True:
                yield from_model(self.sphere, state)
                state = forward(state, step)
                step += 1

    def first_disturbances(self) -> np.ndarray:
        """Return the stream functions that the spin-up begins with, (member, level, known), float32.

        Six tenths of the winter's zonal shear, and random eddies of total wavenumber 4 to 12 that differ by member.
        """
        plan, sphere = self.plan, self.sphere
        shear = relaxed_shear(sphere, plan.world, 1.0) * 0.6 / SPEED
        shear[1:] = 0  # the waves come by themselves
        shear = sphere.packed(shear)
        lower = plan.world.lower_shear
        mean = np.stack([shear * (1 + lower), shear * lower, 0 * shear])
        n = sphere.known[1]
        size = FIRST_WIND * np.exp(-(((n - 8) / 4) ** 2)) / np.maximum(n, 1)
        members = []
        for member in range(len(plan.first_days)):
            rng = np.random.default_rng([plan.seed, plan.world.number, member])
            members.append(mean + size * rng.normal(size=(3, len(n))))
        return np.stack(members).astype(np.float32)

    def _steps(self, block: int) -> int:
        return min(BLOCK, self.plan.records - block * BLOCK)

    def _file(self, block: int) -> Path:
        return self.folder / f"states-{block:05d}.npy"

    @cached_property
    def _open(self) -> dict[int, np.ndarray]:
        return {}

    def _read(self, block: int) -> np.ndarray:
        """Return a file's states, (step, member, level, known), read when they are used."""
        if block not in self._open:
            file = self._file(block)
            shape = (self._steps(block), len(self.plan.first_days), 3, len(self.sphere.known[0]))
            try:
                values = np.load(file, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise EarthSSLError(f"weather: expected states in {file}, but it cannot be read ({error}); "
                                    f"remove {self.folder}, it will be made again") from None  # fmt: skip
            if values.shape != shape or values.dtype != np.float32:
                raise EarthSSLError(
                    f"weather: expected float32 of shape {shape} in {file}, got {values.dtype} {values.shape}; "
                    f"remove {self.folder}, it will be made again"
                )
            self._open[block] = values
        return self._open[block]

    def _write(self, block: int, values: np.ndarray) -> None:
        if not np.isfinite(values).all():
            raise EarthSSLError(
                f"weather: world {self.plan.world.number}, seed {self.plan.seed}: the model became unstable in steps "
                f"{block * BLOCK}…; choose another world, or parameters nearer to the standard ones"
            )
        file = self._file(block)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            with open(temporary, "wb") as handle:
                np.save(handle, values)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)


def to_model(sphere: Sphere, packed: np.ndarray) -> torch.Tensor:
    """Return packed coefficients (member, level, known) as the model's tensor (component, n, level, member)."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(sphere.unpacked(packed).transpose(2, 3, 1, 0)))


def from_model(sphere: Sphere, state: torch.Tensor) -> np.ndarray:
    """Return the model's tensor (component, n, level, member) as packed coefficients (member, level, known)."""
    return sphere.packed(state.cpu().numpy().transpose(3, 2, 0, 1))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: how many there are must not decide the last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _shown(blocks: list[int], description: str) -> Iterator[int]:
    """Yield the blocks with a bar, unless somebody else shows one already."""
    from rich.errors import LiveError

    from ...common.progress import track

    if len(blocks) < 3:
        yield from blocks
        return
    bar = iter(track(blocks, description))
    try:
        first = next(bar)
    except LiveError:
        yield from blocks
        return
    yield first
    yield from bar
