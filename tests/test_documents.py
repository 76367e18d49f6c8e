"""What README and docs/ say of this repository is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mlops_nb

ROOT, PACKAGE = Path(__file__).parents[1], Path(mlops_nb.__file__).parent
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PAGES = ["README.md", "CHANGELOG.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_within_the_repository_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))

    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_every_module_has_its_place_in_the_architecture() -> None:
    named = set(re.findall(r"`(\w+(?:\.py|/))`", ARCHITECTURE))
    modules = {f"{part.name}/" if part.is_dir() else part.name for part in PACKAGE.iterdir() if part.suffix == ".py" or (part / "__init__.py").exists()}

    assert modules - named == {"__init__.py"}


def test_every_file_of_the_architecture_is_there() -> None:
    places = [ROOT, ROOT / "dashboard", PACKAGE, *(part for part in PACKAGE.iterdir() if part.is_dir())]

    assert [name for name in re.findall(r"`([\w/]+\.py)`", ARCHITECTURE) if not any((place / name).exists() for place in places)] == []
