"""The nightly report says when it is due, and gives its report without waiting for the night."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

from tests.printed import own_lines

PROJECT = Path(__file__).resolve().parents[2]

EXPECTED = re.compile(
    r"""nightly-report is due cron '30 4 \* \* \*' in Europe/Berlin
  next (\d{4}-\d\d-\d\d) 04:30
  next (\d{4}-\d\d-\d\d) 04:30
  next (\d{4}-\d\d-\d\d) 04:30
lamp    196
chair    89
table     0
all     285
the last run is SUCCESSFUL
\[\('nightly-report', 'paused'\)\]"""
)


def test_the_nightly_report_is_due_each_night_and_can_be_had_now(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(PROJECT / "examples" / "cron_report.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    said = EXPECTED.fullmatch("\n".join(own_lines(ran.stdout)))
    assert said is not None, ran.stdout
    nights = [date.fromisoformat(night) for night in said.groups()]
    assert nights == [nights[0] + timedelta(days=days) for days in range(3)]
