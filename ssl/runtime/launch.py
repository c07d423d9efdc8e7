"""Starts the processes of a run on this machine, one a device, and waits for them; srun and torchrun start their own.

Each process runs only the work it is given: what called `launch` is none of them, so nothing else is done twice.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from ..common.errors import EarthSSLError
from ..common.files import write_json
from .signals import Stopped, deferred, heard, requested

POLL_S = 0.05


def launch(work: Callable[[], Path], processes: int, threads: int) -> Path:
    """Run the work in so many processes, which find each other through the environment, and return what rank 0 does.

    A signal is passed on to all of them. Where one of them ends badly, the others are ended too.

    Args:
        work: What each does; rank and number of processes are in the environment as Lightning reads it.
        processes: How many.
        threads: Of this process, to be shared among them.

    Raises:
        EarthSSLError: What a process raised, or that it was killed.
        Stopped: If a signal ended the work in an orderly way.
    """
    with tempfile.TemporaryDirectory() as name, deferred():
        folder = Path(name)
        (folder / "work").write_bytes(cloudpickle.dumps(work))
        share = max(1, threads // processes)
        port = _free_port()
        command = [sys.executable, "-m", "earthssl.ssl.runtime.launch", name]
        children = [
            subprocess.Popen([*command, str(rank)], env=_environment(rank, processes, port, share))
            for rank in range(processes)
        ]
        try:
            _wait(children)
            statuses = [child.poll() or 0 for child in children]  # before those that wait in vain are ended
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                child.wait()
        return _outcome(folder, statuses)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(rank: int, processes: int, port: int, threads: int) -> dict[str, str]:
    """Return the environment of a process: Lightning reads where it stands from it."""
    # Inside an allocation of SLURM, but not started by srun: its variables would tell Lightning otherwise.
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    places = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": processes, "MASTER_PORT": port}
    places |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return {**own, **{name: str(value) for name, value in places.items()}, "MASTER_ADDR": "127.0.0.1"}


def _wait(children: list[subprocess.Popen[bytes]]) -> None:
    """Wait for all, passing on a signal once; return early where one ended badly."""
    passed = False
    while any(child.poll() is None for child in children):
        if requested() and not passed:
            passed = True
            for child in children:
                child.send_signal(requested())
        bad = [child for child in children if child.poll() not in (None, 0)]
        if bad and not passed:
            time.sleep(1)  # the others may be about to say why
            return
        time.sleep(POLL_S)


def _outcome(folder: Path, statuses: list[int]) -> Path:
    """Return what rank 0 returned, or raise what ended the run: a mistake first, then a signal."""
    found: list[dict[str, Any]] = []
    for rank in range(len(statuses)):
        file = folder / f"outcome{rank}"
        found.append(json.loads(file.read_text()) if file.is_file() else {})
    for own in found:
        if "error" in own:
            raise EarthSSLError(own["error"])
    for own in found:
        if "stopped" in own:
            raise Stopped(own["signum"], own["stopped"])
    if requested():
        raise Stopped(requested(), "stopped before the first step")
    for rank, status in enumerate(statuses):
        if status:
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            raise EarthSSLError(
                f"process {rank} of {len(statuses)} {how}; expected all to go on; what it said stands above; the run "
                "goes on from its last saved state with --resume"
            )
    return Path(found[0]["path"])


def main(folder: Path, rank: int) -> int:
    """Do the work as one of the processes, and leave word of how it went."""
    said = folder / f"outcome{rank}"
    try:
        with heard():
            work = pickle.loads((folder / "work").read_bytes())
            write_json(said, {"path": str(work())})
    except EarthSSLError as error:
        write_json(said, {"error": str(error)})
        return 2
    except Stopped as stopped:
        write_json(said, {"stopped": str(stopped), "signum": stopped.signum})
        return stopped.status
    return 0


if __name__ == "__main__":
    # os._exit: a process group that lost a member may hang when it is taken down in an orderly way.
    status = main(Path(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
