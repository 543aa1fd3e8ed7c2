"""Makes a kept folder of the code as it is: `python -m tests.kept.make NAME` leaves `tests/kept/folders/NAME.tar.gz`.

One is made before a change of what is stored, and named by the day; it is opened by every later commit, and never made
again. A driver fills a storage folder on a Ray of its own, and all its processes are killed at once. Nothing in it
names the machine that made it: what would is said, and nothing is kept.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import lmdb

from tests.kept import by_value, contents
from tests.recovery.processes import descendants, end, until

PROJECT = Path(__file__).resolve().parents[2]
ROOTS = ("platform", "listeners", "actors")
_LEFT_OUT = ("LOCK", "LOCK.members", "lock.mdb", "data.mdb")


def main(name: str) -> None:
    """Make, check and pack one."""
    packed = contents.FOLDERS / f"{name}.tar.gz"
    assert not packed.exists(), f"{packed} is there, and stays as it was made"
    with tempfile.TemporaryDirectory(prefix="kept-", dir="/tmp") as folder:
        place = Path(folder)
        with contents.installed(place) as (code, packages):
            made = _fill(place / contents.STORAGE, packages, {code.NOTES: place / "notes", code.GATE: place / "gate"})
        whole = place / "whole"
        _copy(place / contents.STORAGE, whole / contents.STORAGE)
        made.write(whole)
        _check(whole)
        contents.FOLDERS.mkdir(exist_ok=True)
        packed.write_bytes(_packed(whole))
    print(f"{packed}: {packed.stat().st_size:,} bytes")


def _fill(storage: Path, packages: Path, variables: dict[str, Path]) -> contents.Made:
    carried = storage.with_name("own")
    carried.mkdir()
    (carried / "kept_carried.py").write_text(by_value.CARRIED)
    # A copy, since paths of the code are in the texts of errors.
    project = storage.with_name("project")
    for part in (*ROOTS, "tests", "deploy"):
        shutil.copytree(PROJECT / part, project / part, ignore=shutil.ignore_patterns("__pycache__", "folders"))
    paths = [project, *(project / root for root in ROOTS), packages, carried]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    driver = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.kept.driver", str(storage)],
        cwd=packages,
        env={**environment, **{key: str(path) for key, path in variables.items()}},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert driver.stdout is not None
        for line in driver.stdout:
            word, _, rest = line.partition(" ")
            if word == "MADE":
                return contents.Made(**json.loads(rest))
        raise AssertionError("the driver ended before all was there")
    finally:
        below = descendants(driver.pid)
        driver.kill()
        end(below)
        driver.wait()
        until(lambda: not any(process.alive for process in below), "the driver's processes end")


def _copy(storage: Path, to: Path) -> None:
    """The files of a storage folder, its records without the room that a map leaves free."""
    to.mkdir(parents=True)
    for source in sorted(storage.rglob("*")):
        target = to / source.relative_to(storage)
        if source.is_dir():
            target.mkdir(parents=True)
        elif source.name not in _LEFT_OUT:
            target.write_bytes(source.read_bytes())
    with lmdb.Environment(str(storage / "meta.lmdb"), map_size=1 << 40, readonly=True, lock=False) as records:
        records.copy(str(to / "meta.lmdb"), compact=True)


def _check(folder: Path) -> None:
    telling = {str(PROJECT), str(Path.home()), sys.prefix}
    named = [
        f"{path.relative_to(folder)} names {word}"
        for path in folder.rglob("*")
        if path.is_file()
        for word in telling
        if word.encode() in path.read_bytes()
    ]
    assert not named, named


def _packed(folder: Path) -> bytes:
    """The same bytes for the same files, whoever owns them."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for path in sorted(folder.rglob("*")):
            about = archive.gettarinfo(path, str(path.relative_to(folder)))
            about.uid = about.gid = about.mtime = 0
            about.uname = about.gname = ""
            about.mode = 0o755 if path.is_dir() else 0o644
            if path.is_file():
                with path.open("rb") as content:
                    archive.addfile(about, content)
            else:
                archive.addfile(about)
    return gzip.compress(plain.getvalue(), mtime=0)


if __name__ == "__main__":
    main(sys.argv[1])
