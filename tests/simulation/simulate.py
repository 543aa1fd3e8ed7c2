"""Random schedules, by seed: run one, or as many as asked on several processes.

Run it as `python -m tests.simulation --schedules 20000 --seed 0 --workers 2`.
A seed that breaks a law prints one line that runs it again.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from tests.simulation.actor_world import ActorWorld, MakeActorWorld
from tests.simulation.generator import Program, generate
from tests.simulation.laws import LawBrokenError
from tests.simulation.schedule_world import ScheduleWorld
from tests.simulation.source_world import SourceWorld
from tests.simulation.town import Town
from tests.simulation.world import World

SEEDS_IN_A_BUNDLE = 100
SEEDS_FOR_A_TOWN = 20
SEEDS_FOR_ACTORS = 4
SEEDS_FOR_SOURCES = 20
SEEDS_FOR_SCHEDULES = 20


@dataclass(frozen=True, slots=True)
class Broken:
    """A seed that broke a law."""

    seed: int
    law: str
    detail: str

    def __str__(self) -> str:
        again = f"run  make simulate N=1 SEED={self.seed}"
        return f'simulate: seed {self.seed} failed law "{self.law}" ({self.detail}): {again}'


MakeWorld = Callable[[Random, Program, int, bool, bool], World]


def make_world(random: Random, program: Program, crashes: int, cancels: bool, withholds: bool) -> World:
    """The world as it is; tests put faulty ones in its place."""
    return World(random, program, crashes=crashes, cancels=cancels, withholds=withholds)


def run_seed(seed: int, make: MakeWorld = make_world) -> Broken | None:
    """One schedule of one workflow. What it broke, if anything."""
    random = Random(seed)
    program = generate(random)
    crashes = random.choice((0, 0, 1, 2, 4))
    cancels = random.random() < 0.05
    world = make(random, program, crashes, cancels, random.random() < 0.1)
    return _broken(seed, world.run)


def run_town_seed(seed: int) -> Broken | None:
    """One schedule of several workflows that share executors and places. What it broke, if anything."""
    random = Random(seed)
    programs = [generate(random) for _ in range(random.randint(2, 6))]
    return _broken(seed, Town(random, programs, crashes=random.choice((0, 0, 1, 2, 4))).run)


def run_actor_seed(seed: int, make: MakeActorWorld = ActorWorld) -> Broken | None:
    """One day of a few virtual actors. What it broke, if anything."""
    return _broken(seed, make(Random(seed)).run)


def run_source_seed(seed: int) -> Broken | None:
    """One schedule of a source of events and those who read it. What it broke, if anything."""
    return _broken(seed, SourceWorld(Random(seed)).run)


def run_schedule_seed(seed: int) -> Broken | None:
    """Some days of a schedule. What it broke, if anything."""
    return _broken(seed, ScheduleWorld(Random(seed)).run)


def run_any_seed(seed: int) -> Broken | None:
    """One schedule of the world that comes with a seed: for every so many seeds another one, else of one workflow."""
    if seed % SEEDS_FOR_A_TOWN == SEEDS_FOR_A_TOWN - 1:
        return run_town_seed(seed)
    if seed % SEEDS_FOR_SOURCES == SEEDS_FOR_SOURCES - 3:
        return run_source_seed(seed)
    if seed % SEEDS_FOR_SCHEDULES == SEEDS_FOR_SCHEDULES - 4:
        return run_schedule_seed(seed)
    return run_actor_seed(seed) if seed % SEEDS_FOR_ACTORS == SEEDS_FOR_ACTORS - 1 else run_seed(seed)


def _broken(seed: int, run: Callable[[], None]) -> Broken | None:
    try:
        run()
    except LawBrokenError as broken:
        return Broken(seed, broken.law, broken.detail)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Broken(
            seed, "the engine raises nothing", f"{type(error).__name__}: {error} at {where.filename}:{where.lineno}"
        )
    return None


def run_bundle(first: int) -> list[Broken]:
    """The schedules of one bundle of seeds."""
    # What is held back and tried again is told each time, thousands of times.
    logging.getLogger("holdfast").setLevel(logging.CRITICAL)
    return [broken for seed in range(first, first + SEEDS_IN_A_BUNDLE) if (broken := run_any_seed(seed)) is not None]


def run_many(schedules: int, seed: int, workers: int) -> Iterator[tuple[int, list[Broken]]]:
    """Schedules on several processes: (how many are done, what they broke), bundle by bundle."""
    bundles = range(seed, seed + schedules, SEEDS_IN_A_BUNDLE)
    done = 0
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for broken in pool.imap_unordered(run_bundle, bundles):
            done += SEEDS_IN_A_BUNDLE
            yield min(done, schedules), broken


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit status is 1 when a law was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.splitlines()[0])
    parser.add_argument("--schedules", "--runs", type=int, default=20_000, help="how many schedules")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--workers", type=int, default=2, help="how many processes")
    asked = parser.parse_args(arguments)
    begun, count = time.monotonic(), 0
    if asked.schedules < SEEDS_IN_A_BUNDLE:
        results: Iterator[tuple[int, list[Broken]]] = (
            (seed - asked.seed + 1, [one] if (one := run_any_seed(seed)) is not None else [])
            for seed in range(asked.seed, asked.seed + asked.schedules)
        )
    else:
        results = run_many(asked.schedules, asked.seed, asked.workers)
    for done, broken in results:
        for one in broken:
            count += 1
            print(f"\r{one}", flush=True)
        took = time.monotonic() - begun
        print(f"\r{done:,} of {asked.schedules:,} schedules, {count} broken, {took:.0f} s", end="", flush=True)
    print()
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
