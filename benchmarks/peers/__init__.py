"""Other durable engines, for comparison: each in an environment of its own, with its default durability.

`python -m benchmarks.run --peers ray_workflow,dbos` installs them under `.peers/` and has them do the same work. Their
modules import nothing of Holdfast, nor of each other.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".peers"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another engine.

    Attributes:
        called: For people.
        packages: What is installed for it, as pip takes it.
        workloads: Those that it can do.
    """

    called: str
    packages: Sequence[str]
    workloads: frozenset[str]


PEERS: Mapping[str, Peer] = {
    # The last release that had it. It reads its checkpoints through pyarrow, and asks for it when it is used.
    "ray_workflow": Peer(
        called="ray.workflow 2.47",
        packages=("ray[default]==2.47.1", "pyarrow", "numpy"),
        workloads=frozenset({"latency", "chain", "fanout", "many", "arrays"}),
    ),
    "dbos": Peer(
        called="DBOS, SQLite",
        packages=("dbos>=3.4", "numpy"),
        workloads=frozenset({"latency", "chain", "fanout", "many", "arrays", "event"}),
    ),
}


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, which is made when it is not there.

    Raises:
        subprocess.CalledProcessError: It could not be installed; pip has said why.
    """
    folder = FOLDER / name
    python, done = folder / "bin" / "python", folder / ".installed"
    wanted = "\n".join(PEERS[name].packages)
    if not done.exists() or done.read_text() != wanted:
        print(f"installing {PEERS[name].called} into {folder.relative_to(FOLDER.parent)}", file=sys.stderr, flush=True)
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS[name].packages], check=True)
        done.write_text(wanted)
    return python
