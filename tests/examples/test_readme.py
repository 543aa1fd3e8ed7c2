"""The README's tour is a program: it is the file it claims to be, and it prints what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.printed import own_lines

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text()
TOUR = PROJECT / "examples" / "tour.py"


def blocks(language: str) -> list[str]:
    """The README's fenced blocks in a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_tour_in_the_readme_is_the_file() -> None:
    assert TOUR.read_text() in blocks("python")


def test_the_tour_prints_what_the_readme_promises(tmp_path: Path) -> None:
    promised = blocks("text")
    assert len(promised) == 1
    tour = subprocess.run(
        [sys.executable, str(TOUR)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert tour.returncode == 0, tour.stderr
    assert own_lines(tour.stdout) == promised[0].splitlines()


def test_files_that_the_readme_links_to_exist() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert links
    assert [link for link in links if not (PROJECT / link).exists()] == []


def test_make_commands_in_the_readme_are_targets() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z]+)\b", "\n".join(blocks("bash"))))
    assert named
    assert [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
