"""What stands on the page: every section of each problem, the numbers of the results, and all of it as text."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from finished_runs import SCRIPT, SHORT, page_of, results_of
from runs import settings, text_arguments

from hf_selfattn import ReportArguments, report, run
from hf_selfattn.hub.summary import with_interval
from hf_selfattn.reporting.learning import learning_plot

EVERY = ["Scores", "Learning curves"]
END = ["What the heads looked at", "Data", "Settings"]
OF_CLASSES = ["Calibration", "Abstention", "Thresholds", "Scores by length", "Rows it got most wrong"]
SECTIONS = {
    "single_label_classification": ["Scores by class", "Confusion matrix", *OF_CLASSES, "Likely label errors"],
    "ordinal": ["Scores by class", "Confusion matrix", *OF_CLASSES, "Likely label errors"],
    "multi_label_classification": ["Scores by class", "Confusion by label", *OF_CLASSES, "Likely label errors"],
    "regression": ["Predicted and right values", "Scores by length", "Rows it got most wrong"],
    "named_entities": ["Scores by class", "Errors by kind", "Confusion of types", "Errors in the text"]
    + ["Scores by length"],
}


class Page(HTMLParser):
    """The parts of a page: headings, tables by caption, tags with their attributes, and the text."""

    def __init__(self, source: str):
        super().__init__()
        self.headings: list[tuple[str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.inside: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if re.fullmatch("h[1-6]|th|td|caption", tag):
            self.inside.append("")
        elif tag == "table":
            self.rows = []
        elif tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        if not re.fullmatch("h[1-6]|th|td|caption", tag):
            return
        text = self.inside.pop().strip()
        if tag in ("th", "td"):
            self.rows[-1].append(text)
        elif tag == "caption":
            self.tables[text] = self.rows
        else:
            self.headings.append((tag, text))

    def handle_data(self, data: str) -> None:
        self.text += data
        self.inside = [text + data for text in self.inside]

    def titles(self, tag: str = "h2") -> list[str]:
        return [text for level, text in self.headings if level == tag]


@pytest.fixture(scope="module")
def sources(finished: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The page of each run, as it is written."""
    return {problem: page_of(folder, tmp_path_factory.mktemp("page")) for problem, folder in finished.items()}


@pytest.fixture(scope="module")
def pages(sources: dict[str, str]) -> dict[str, Page]:
    return {problem: Page(source) for problem, source in sources.items()}


def answers_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions-test.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("problem", SECTIONS)
def test_every_section_of_a_problem_is_there(pages: dict[str, Page], problem: str) -> None:
    page = pages[problem]
    assert page.titles() == [*EVERY, *SECTIONS[problem], *END]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a" and attributes["href"] != "#main"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(links) == len(page.titles()) and {f"#{name}" for name in ids} >= {*links}
    assert len(ids) == len(set(ids))
    figures = [attributes for tag, attributes in page.tags if attributes.get("role") == "img"]
    assert figures and all(len(figure["aria-label"] or "") > 20 for figure in figures)


@pytest.mark.parametrize("problem", SECTIONS)
def test_scores_are_those_of_the_results(pages: dict[str, Page], finished: dict[str, Path], problem: str) -> None:
    results = results_of(finished[problem])
    for name, split in results["splits"].items():
        rows = pages[problem].tables[f"{name}: {split['rows']:,} rows"][1:]
        overall = {metric: value for metric, value in split["scores"].items() if "/" not in metric}
        assert [row[1] for row in rows] == [with_interval(value) for value in overall.values()]
        if "baseline" in results:
            theirs = results["baseline"]["tfidf"]["splits"][name]["scores"]
            assert [row[2] for row in rows] == [with_interval(theirs.get(metric)) for metric in overall]


def test_classes_and_their_confusion(pages: dict[str, Page], finished: dict[str, Path]) -> None:
    page, folder = pages["single_label_classification"], finished["single_label_classification"]
    results = results_of(folder)
    names, scores = results["label_names"], results["splits"]["test"]["scores"]
    assert {*names} == {SCRIPT, "$x_1$", "上"}
    by_class = {row[0]: row for row in page.tables["Classes on test"][1:]}
    for name in names:
        assert by_class[name][1] == with_interval(scores.get(f"f1/{name}"))
        assert by_class[name][-1] == str(results["train"]["labels"][name])
    table = page.tables["Rows of test by label (down) and answer (across)"]
    assert table[0] == ["", *names]
    for place, row in enumerate(table[1:]):
        of_label = [answer["output"] for answer in answers_of(folder) if answer["reference"] == place]
        counts = [sum(max(range(3), key=output.__getitem__) == other for output in of_label) for other in range(3)]
        assert row == [names[place], *map(str, counts)]


def test_abstention_counts_what_is_answered_and_wrong(pages: dict[str, Page], finished: dict[str, Path]) -> None:
    answers = answers_of(finished["single_label_classification"])
    caption = "Answers of test by least probability; below it the answer is “unsure”"
    rows = pages["single_label_classification"].tables[caption][1:]
    assert rows[0][:2] == ["0", "100.0 %"]
    for least, answered, wrong, _ in rows:
        kept = [answer for answer in answers if max(answer["output"]) >= float(least)]
        errors = sum(answer["output"][answer["reference"]] < max(answer["output"]) for answer in kept)
        assert answered == f"{100 * len(kept) / len(answers):.1f} %"
        assert wrong == f"{100 * errors / len(kept):.1f} %"


def test_the_rows_that_were_most_wrong_come_first(pages: dict[str, Page], finished: dict[str, Path]) -> None:
    folder = finished["regression"]
    errors = [abs(answer["output"] - answer["reference"]) for answer in answers_of(folder)]
    worst = sorted(range(len(errors)), key=lambda row: -errors[row])[:10]
    places = [int(place) for place in re.findall(r"test\.jsonl:(\d+)", pages["regression"].text)]
    assert places[:10] == [row + 1 for row in worst]
    rows = [json.loads(line) for line in (folder.parent / "test.jsonl").read_text().splitlines()]
    assert rows[worst[0]]["text"] in pages["regression"].text


def test_entities_are_marked_in_their_sentences(sources: dict[str, str], finished: dict[str, Path]) -> None:
    errors = results_of(finished["named_entities"])["splits"]["test"]["errors"]
    table = Page(sources["named_entities"]).tables["Entities of test"]
    for kind, _, references, predictions in table[1:]:
        counts = errors["kinds"][kind.replace(" ", "_")]
        assert [references, predictions] == [str(counts["references"]), str(counts["predictions"])]
    missed = errors["examples"]["missed"] + errors["examples"]["wrong_border"] + errors["examples"]["spurious"]
    sides = [example[side] for example in missed[:1] for side in ("reference", "prediction") if example[side]]
    assert sides
    for side in sides:
        assert (
            f'<mark class="entity wrong">{side["text"]} <small>▸ {side["type"]}</small></mark>'
            in sources["named_entities"]
        )


def test_text_and_labels_stay_text(sources: dict[str, str], pages: dict[str, Page]) -> None:
    source, page = sources["single_label_classification"], pages["single_label_classification"]
    assert SCRIPT not in source and "<img" not in source
    assert SCRIPT in page.text and "<img src=x onerror=alert(" in page.text
    assert "$x_1$" in page.text  # no formula
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "iframe", "object", "embed")]


def test_the_page_needs_nothing_else(sources: dict[str, str], finished: dict[str, Path]) -> None:
    for problem, source in sources.items():
        assert not re.search(r"https?://", source), problem
        assert not re.search(r"(src|href)=\"(?!#|data:,)", source), problem
        assert "url(" not in re.sub(r"url\(#", "", source), problem
        assert str(finished[problem].parents[1]) not in source, problem
        assert "default-src 'none'" in source


@pytest.mark.parametrize("problem", ["single_label_classification", "named_entities"])
def test_the_same_run_has_the_same_page(
    sources: dict[str, str], finished: dict[str, Path], tmp_path: Path, problem: str
) -> None:
    assert page_of(finished[problem], tmp_path) == sources[problem]


def test_parts_by_a_column(finished: dict[str, Path], tmp_path: Path) -> None:
    page = Page(page_of(finished["ordinal"], tmp_path, columns=["source"], look_inside=False))
    rows = page.tables["mean absolute error ↓ by source"]
    assert [row[:2] for row in rows[1:]] == [["paper", "20"], ["web & shop", "20"]]
    lengths = page.tables["mean absolute error ↓ by length in tokens"][1:]
    assert sum(int(row[1]) for row in lengths) == 40
    with pytest.raises(ValueError, match=r"no column 'sauce'; there are .*source"):
        page_of(finished["ordinal"], tmp_path, columns=["sauce"])


def test_without_the_data_the_page_says_so(finished: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(finished["ordinal"], tmp_path / "run")
    results = results_of(tmp_path / "run")
    lines = Path(results["arguments"]["test"]).read_text().splitlines(keepends=True)
    results["arguments"]["test"] = str(tmp_path / "fewer.jsonl")
    (tmp_path / "run/results.json").write_text(json.dumps(results))
    left_out = ["Scores by length", "Rows it got most wrong", "Likely label errors"]
    expected = [title for title in [*EVERY, *SECTIONS["ordinal"], *END] if title not in left_out]
    page = Page(page_of(tmp_path / "run", tmp_path))
    assert "no file matches" in page.text and page.titles() == expected
    (tmp_path / "fewer.jsonl").write_text("".join(lines[1:]))
    page = Page(page_of(tmp_path / "run", tmp_path, look_inside=False))
    assert "are not the rows that were scored" in page.text
    assert not [line for line in lines if json.loads(line)["text"] in page.text]


@pytest.mark.parametrize(("title", "shown"), [("mAP, validation", "mAP, validation by"), ("loss", "Loss by")])
def test_a_curve_has_the_name_of_its_score(title: str, shown: str) -> None:
    assert learning_plot(title, {"a": ([1.0, 2.0], [0.5, 0.6])}, None).caption.startswith(shown)


def test_several_seeds_side_by_side(tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(text_arguments(settings(tiny_backbone, tmp_path, seeds=3, **SHORT)))
    path = report(ReportArguments(runs=[str(tmp_path / "run")], look_inside=False))
    page = Page(path.read_text(encoding="utf-8"))
    assert path == tmp_path / "run/report.html"
    said = capsys.readouterr().out
    assert f"\nWrote {tmp_path / 'run'}. To look at it: " in said and said.endswith(f"\nWrote {path}.\n")
    assert said.count("No validation split was given") == 3, "each run says it, and the report does not"
    assert page.titles() == ["Side by side", "seed-0", "seed-1", "seed-2"]
    results = results_of(tmp_path / "run")
    summary = results["summary"]["test"]["accuracy"]
    rows = {row[0]: row for row in page.tables["test: scores with 95 % intervals"]}
    assert rows["accuracy"][-1] == f"{summary['mean']:.3f} ± {summary['sd']:.3f}"
    values = [part["splits"]["test"]["scores"]["accuracy"]["value"] for part in results["runs"].values()]
    tests = page.tables["test: paired bootstrap against seed-0"][1:]
    assert [row[0] for row in tests[::3]] == ["seed-1: accuracy", "seed-2: accuracy"]
    assert [row[1:3] for row in tests[::3]] == [[f"{values[0]:.3f}", f"{value:.3f}"] for value in values[1:]]
    assert all(0 < float(row[5]) <= 1 for row in tests)


def test_two_taggers_side_by_side(finished: dict[str, Path], tmp_path: Path) -> None:
    runs = [str(finished["named_entities"]), str(finished["named_entities"]), str(finished["regression"])]
    path = report(ReportArguments(runs=runs, output=str(tmp_path / "page.html"), look_inside=False))
    page = Page(path.read_text(encoding="utf-8"))
    row = page.tables["test: paired bootstrap against named_entities/run"][1]
    assert row[0] == "named_entities/run: F1" and row[3:] == ["+0.000", "+0.000 to +0.000", "1.0000"]
    assert "There is no paired test of regression/run on test: problem is" in page.text


def test_what_cannot_be_shown_is_said(finished: dict[str, Path], tmp_path: Path, monkeypatch: Any) -> None:
    folder = finished["single_label_classification"]
    with pytest.raises(ValueError, match="runs is empty"):
        report(ReportArguments())
    with pytest.raises(ValueError, match="give the folder of a run that has ended"):
        report(ReportArguments(runs=[str(tmp_path)]))
    with pytest.raises(ValueError, match="split=dev: .* has scores of validation, test"):
        page_of(folder, tmp_path, split="dev")
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    (copied / "config.json").unlink()
    assert "The model could not be opened" in page_of(copied, tmp_path)
    (copied / "predictions-test.jsonl").unlink()
    with pytest.raises(ValueError, match=r"predictions-test\.jsonl is missing"):
        page_of(copied, tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install matplotlib"):
        page_of(folder, tmp_path)
