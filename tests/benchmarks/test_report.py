"""The verdicts of the benchmarks, on figures made up for the purpose."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import run
from benchmarks.flushes import count
from benchmarks.naps import COUNT
from benchmarks.report import Comparison, Naps, as_table, naps_as_table
from holdfast.storage.folder import StorageFolder


def comparison(holdfast_s: list[float], plain_ray_s: list[float], logged: list[int]) -> Comparison:
    return Comparison(
        workload="chain",
        holdfast_s=holdfast_s,
        plain_ray_s=plain_ray_s,
        logged_tasks=logged,
        expected_tasks=200,
        commits=[205] * len(logged),
        disk_flushes=[410] * len(logged),
    )


def test_the_speed_is_the_ratio_of_the_medians() -> None:
    assert comparison([9.0, 0.5, 0.4], [0.2, 0.1, 7.0], [200] * 3).speed == pytest.approx(0.4)


def test_a_speed_at_the_asked_one_is_met_and_one_below_is_not() -> None:
    assert comparison([0.5], [1.5], [200]).met
    assert not comparison([0.5], [1.49], [200]).met


def test_a_speed_that_was_reached_is_lost_below_half_of_what_is_asked() -> None:
    assert not comparison([0.5], [0.75], [200]).lost
    assert comparison([0.5], [0.74], [200]).lost
    assert not replace(comparison([0.5], [0.01], [200]), workload="many").lost


class TestTheGuard:
    """On measurements made up for the purpose."""

    @staticmethod
    def run(monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> int:
        left = list(seconds)

        def measure(module: str, engine: str, *arguments: str) -> dict[str, float | None]:
            if engine == "recount":
                return {"logged_tasks": 200, "expected_tasks": 200}
            if engine == "plain_ray":
                return {"seconds": 1.0}
            return {"seconds": left.pop(0), "commits": 205, "disk_flushes": None}

        monkeypatch.setattr(run, "_measure", measure)
        status = run.main(["--only", "chain", "--repeat", "1", "--guard"])
        assert not left, "it was measured less often than expected"
        return status

    def test_one_that_is_fast_enough_is_measured_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.run(monkeypatch, [0.6]) == 0

    def test_one_that_was_slow_by_chance_passes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.run(monkeypatch, [9.0, 0.4, 0.5]) == 0

    def test_one_that_is_slow_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.run(monkeypatch, [0.9, 0.8, 0.7]) == 1


def test_one_missing_task_in_one_repeat_is_not_durable() -> None:
    assert comparison([0.5] * 2, [0.2] * 2, [200, 200]).durable
    assert not comparison([0.5] * 2, [0.2] * 2, [200, 199]).durable


def test_the_table_says_what_was_not_met() -> None:
    console = Console(width=160, record=True)
    console.print(as_table([comparison([0.5], [0.1], [199])], caption="a machine"))
    said = console.export_text()
    assert "0.20x" in said
    assert "3x: not met" in said
    assert "NOT ALL of 200" in said
    assert "a machine" in said
    assert "205, 410" in said


def test_where_the_system_counts_no_flushes_the_table_says_so() -> None:
    console = Console(width=160, record=True)
    console.print(as_table([replace(comparison([0.5], [0.1], [200]), disk_flushes=())], caption=""))
    assert "205, ?" in console.export_text()


def test_what_a_store_has_committed_is_counted(tmp_path: Path) -> None:
    with closing(StorageFolder.open(tmp_path / "store")) as folder:
        before = count(str(tmp_path / "store"))
        for number in range(3):
            with folder.kv.write() as txn:
                txn.put(b"a key", bytes([number]))
        assert count(str(tmp_path / "store")).since(before).commits == 3


def naps(**figures: float) -> Naps:
    ours = {"engine": "holdfast", "kib_each": 3.0, "late_p50_ms": 8.0, "late_p99_ms": 20.0, "found": COUNT, **figures}
    return Naps(rows=[ours, {"engine": "plain_ray", "kib_each": 60.0, "late_p50_ms": 9.0, "late_p99_ms": 60.0}])


def test_sleepers_are_to_be_small_and_punctual_and_all_there() -> None:
    assert naps().met
    assert not naps(kib_each=4.1).met
    assert not naps(late_p99_ms=51.0).met
    assert naps().durable
    assert not naps(found=COUNT - 1).durable


def test_the_table_of_sleepers_says_what_was_not_met() -> None:
    console = Console(width=160, record=True)
    console.print(naps_as_table(naps(kib_each=5.25, found=3), caption="a machine"))
    said = console.export_text()
    assert "5.2" in said
    assert "60.0 ms" in said
    assert "asked: not met; NOT ALL were found" in said


class TestAnUnfinishedRun:
    """On measurements made up for the purpose."""

    @staticmethod
    def run(monkeypatch: pytest.MonkeyPatch, file: Path, ends_with: BaseException) -> int:
        def measure(module: str, engine: str, *arguments: str) -> dict[str, float]:
            if "fanout" in arguments:
                raise ends_with
            return {"seconds": 0.25, "commits": 205, "disk_flushes": 410, "logged_tasks": 200, "expected_tasks": 200}

        monkeypatch.setattr(run, "_measure", measure)
        return run.main(["--only", "chain,fanout,latency", "--repeat", "2", "--json", str(file)])

    @staticmethod
    def written(file: Path) -> list[str]:
        return [json.loads(line)["workload"] for line in file.read_text().splitlines()]

    def test_what_was_measured_before_ctrl_c_is_shown_and_kept(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(monkeypatch, tmp_path / "lines", KeyboardInterrupt()) == 130
        assert self.written(tmp_path / "lines") == ["chain"] * 2
        assert "1.00x" in capsys.readouterr().out

    def test_one_that_fails_spoils_no_other(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(monkeypatch, tmp_path / "lines", run.MeasurementError("it fell over")) == 1
        assert self.written(tmp_path / "lines") == ["chain", "chain", "latency", "latency"] * 2
        said = capsys.readouterr()
        assert said.err.count("fanout could not be measured: it fell over") == 1
        assert said.out.count("1.00x") == 2


def test_an_unknown_workload_is_refused_by_name() -> None:
    with pytest.raises(
        SystemExit, match="no workload 'sprint'; there are latency, chain, fanout, many, many-awaited, "
    ):
        run.main(["--only", "chain,sprint"])
