"""The page in a real browser: nothing leaves it, nothing breaks, all of it is there, on a desk and on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, visit
from finished_runs import SCRIPT

from hf_selfattn import ReportArguments, report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="There is no Chromium here: apt install chromium."),
]

LOOK = """(() => {
  const shown = element => { const box = element.getBoundingClientRect(); return box.width > 50 && box.height > 20; };
  const figures = [...document.querySelectorAll("figure")];
  const ids = [...document.querySelectorAll("[id]")].map(element => element.id);
  const links = [...document.querySelectorAll("nav a")].map(link => link.getAttribute("href").slice(1));
  return {
    title: document.title,
    sections: [...document.querySelectorAll("h2, h3")].map(heading => heading.textContent),
    figures: figures.length,
    shown: figures.filter(figure => shown(figure.querySelector("svg")) && figure.querySelector("svg path")).length,
    told: figures.filter(figure => figure.querySelector("[role=img]").getAttribute("aria-label").length > 20).length,
    twice: ids.filter((id, place) => ids.indexOf(id) !== place),
    dangling: links.filter(id => !document.getElementById(id)),
    scripts: document.querySelectorAll("script, iframe, object, embed").length,
    images: document.querySelectorAll("img").length,
    uncaptioned: [...document.querySelectorAll("table")].filter(table => !table.caption).length,
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    paper: getComputedStyle(document.body).backgroundColor,
    text: document.body.textContent,
  };
})()"""


def look(page: Path, **options: Any) -> dict[str, Any]:
    """What a browser says of a page, which may ask for nothing but itself and say nothing wrong."""
    seen = visit(page, LOOK, **options)
    assert seen.requests == [page.resolve().as_uri()], seen.requests
    assert seen.complaints == [] and seen.dialogs == []
    assert seen.picture.startswith(b"\x89PNG")
    found: dict[str, Any] = seen.value
    assert found["figures"] == found["shown"] == found["told"] > 0
    assert found["twice"] == [] and found["dangling"] == []
    assert found["scripts"] == found["images"] == found["uncaptioned"] == 0
    assert found["wide"] == 0, "the page is wider than the screen"
    return found


def test_one_run_on_a_desk_and_on_a_phone(finished: dict[str, Path], tmp_path: Path) -> None:
    page = report(
        ReportArguments(runs=[str(finished["single_label_classification"])], output=str(tmp_path / "page.html"))
    )
    light, dark = look(page), look(page, width=390, dark=True)
    assert light["sections"] == dark["sections"] and "Likely label errors" in light["sections"]
    assert light["paper"] != dark["paper"]
    assert SCRIPT in light["text"] and "<img src=x onerror=" in light["text"]


@pytest.mark.parametrize("problem", ["multi_label_classification", "named_entities"])
def test_other_problems_on_a_phone(finished: dict[str, Path], tmp_path: Path, problem: str) -> None:
    look(report(ReportArguments(runs=[str(finished[problem])], output=str(tmp_path / "page.html"))), width=390)


def test_two_runs(finished: dict[str, Path], tmp_path: Path) -> None:
    runs = [str(finished["regression"]), str(finished["regression"])]
    found = look(report(ReportArguments(runs=runs, output=str(tmp_path / "page.html"), look_inside=False)))
    assert found["sections"][0] == "Side by side"
