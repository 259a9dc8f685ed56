"""What the README says is true: its commands and its code run. `test_study.py` holds its numbers."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from datetime import date
from pathlib import Path

import openpyxl
import pytest
from answering import served
from pages import README, ROOT, blocks, commands, copy_first_rows, fetch, first_layers, run, type_in
from warm_python import warm_python

# `make demo` has a test of its own below; the other installs.
ELSEWHERE = {"make demo", 'pip install ".[audio,excel,images,report,serve]"'}
CHINESE = ROOT / "README.zh.md"


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 180
    assert ELSEWHERE < set(commands(README))


def test_the_chinese_readme_keeps_step() -> None:
    """The same commands, code but for its comments, pages, pictures and numbers."""
    assert commands(CHINESE) == commands(README)
    without_comments = [[re.sub(r"#.*", "", block) for block in blocks(page, "python")] for page in (README, CHINESE)]
    assert without_comments[0] == without_comments[1]
    texts = [page.read_text(encoding="utf-8") for page in (README, CHINESE)]
    for pattern in (r"^\| \[[^\]]+\]\(benchmarks/results/.*$", r"^## ", r"\bdocs/[\w-]+\.\w+", r"\d\.\d{3}"):
        one, other = (sorted(re.findall(pattern, text, re.MULTILINE)) for text in texts)
        assert one == other, pattern


@pytest.mark.slow
def test_commands_and_code_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fetch("minilm", "vader", "mobilenetv2", "stamps", "whisper-tiny-en", "languages")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    copy_first_rows(tmp_path, rows=80)
    first_layers(tmp_path / ".data/minilm")
    (tmp_path / ".data/mobilenetv2").symlink_to(ROOT / ".data/mobilenetv2")
    (tmp_path / ".data/whisper").symlink_to(ROOT / ".data/whisper-tiny-en")
    lay_out_complaints(tmp_path)
    lay_out_photos(tmp_path)
    lay_out_calls(tmp_path)
    new, *others = (command for command in commands(README) if command not in ELSEWHERE)
    said = run(*shlex.split(new), cwd=tmp_path).stdout  # the script itself
    for command in others:
        if command.startswith("hf-selfattn serve "):
            assert_served_as_predicted(tmp_path, command.split()[-1])
        else:
            type_in(command, monkeypatch)
    said += capsys.readouterr().out
    assert "Columns: text 'complaint', label 'label'." in said and "80 rows" in said
    report = (tmp_path / "runs/complaints/report.html").read_text(encoding="utf-8")
    assert "Rows it got most wrong" in report and "macro F1" in report
    assert_photos_are_told_apart(tmp_path)
    assert_calls_are_told_apart(tmp_path)
    answers = run(warm_python(), "-c", "\n".join(blocks(README, "python")), cwd=tmp_path).stdout
    assert answers.count("{'label': ") == 2
    assert (tmp_path / "runs/mine/results.json").is_file() and (tmp_path / "runs/reviews/results.json").is_file()


def lay_out_complaints(folder: Path) -> None:
    """Complaints in an Excel file, new ones in a CSV file of Excel, and labelled ones, all of them untidy."""
    with (folder / "reviews.csv").open(encoding="utf-8", newline="") as file:
        reviews = list(csv.DictReader(file))
    odd = ['He said: "no";\nthen nothing; for weeks.', "Büro zu – nobody's there…", "=1+1 is not; a formula\n\nhere"]
    book = openpyxl.Workbook()
    book.active.append(["id", "received", "complaint", "remark", "label"])
    for number, row in enumerate(reviews):
        text = f"{odd[number % 3]} {row['text']}" if number % 9 == 0 else row["text"]
        remark = "late" if number % 7 == 0 else None
        book.active.append([number, date(2026, 1, 1 + number % 28), text, remark, row["label"]])
        if number == 40:
            book.active.append([None] * 5)
    book.save(folder / "complaints.xlsx")
    with (folder / "new.csv").open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow(["id", "complaint", "remark"])
        table.writerows([number, f"{odd[number % 3]} {reviews[number]['text']}", ""] for number in range(50))
    with (folder / "labelled.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["complaint", "label"], *([row["text"], row["label"]] for row in reviews[:40])])


def lay_out_photos(folder: Path) -> None:
    """Folders of birds, fruit and road signs, and others of their kinds in one folder."""
    for kind in ("bird", "fruit", "roadsign"):
        images = sorted((ROOT / ".data/stamps/images" / kind).iterdir())[:24]
        for number, image in enumerate(images):
            target = folder / "new-photos" if number % 4 == 0 else folder / "photos" / kind
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, target / f"{kind}-{image.name}")


def lay_out_calls(folder: Path) -> None:
    """Folders of long prompts in English and Spanish, which their voices tell apart, and others in one folder."""
    for kind in ("en", "es"):
        sounds = sorted(
            (ROOT / ".data/languages/sounds/asterisk" / kind).iterdir(), key=lambda path: path.stat().st_size
        )
        for number, sound in enumerate(sounds[-24:]):
            target = folder / "new-calls" if number % 4 == 0 else folder / "calls" / kind
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(sound, target / f"{kind}-{sound.name}")


def assert_calls_are_told_apart(folder: Path) -> None:
    """Each new sound has an answer, most of them the right one, and the report shows spectrograms."""
    with (folder / "calls.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list((folder / "new-calls").iterdir())) == 12
    assert sum(Path(row["sound"]).name.startswith(row["label"]) for row in rows) > len(rows) / 2
    assert "data:image/" in (folder / "runs/calls/report.html").read_text(encoding="utf-8")


def assert_photos_are_told_apart(folder: Path) -> None:
    """New images are answered better than by chance, and the report shows some."""
    with (folder / "photos.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list((folder / "new-photos").iterdir()))
    assert sum(Path(row["image"]).name.startswith(row["label"]) for row in rows) > len(rows) / 2
    assert "data:image/jpeg;base64," in (folder / "runs/photos/report.html").read_text(encoding="utf-8")


def assert_served_as_predicted(folder: Path, model: str) -> None:
    """The server answers the new rows as `predict` wrote them, in their order and beside their own columns."""
    with (folder / "new.csv").open(encoding="utf-8-sig", newline="") as file:
        given = list(csv.DictReader(file, delimiter=";"))
    with (folder / "answers.csv").open(encoding="utf-8-sig", newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 50
    with served(str(folder / model)) as server:
        answers = server.answers([row["complaint"] for row in given])
    for mine, row, answer in zip(written, given, answers, strict=True):
        assert {name: mine[name] for name in row} == row
        assert mine["label"] == answer["label"]
        assert float(mine["probability"]) == pytest.approx(answer["probability"], abs=0.02)


@pytest.mark.slow
def test_the_demo_script(tmp_path: Path) -> None:
    """What `make demo` runs after installing, on a third of its sentences; run again, it trains nothing."""
    fetch("minilm", "vader")
    copy_first_rows(tmp_path, rows=2600, scored=600)
    for name in ("recipes", ".data/minilm"):
        (tmp_path / name).symlink_to(ROOT / name)
    first = run(warm_python(), "recipes/demo.py", cwd=tmp_path, timeout=900).stdout
    assert re.search(r"Test accuracy 0\.8\d\d \[0\.\d+, 0\.\d+\] on 600 sentences", first), first[-2000:]
    lengths = [int(found) for found in re.findall(r"(\d+) tokens: ", first)]
    assert len(lengths) == 3 and max(lengths) > 2000
    assert re.search(r"TF-IDF with logistic regression 0\.\d+ \[", first)
    assert "report.html" in first.splitlines()[-1] and (tmp_path / "runs/demo/report.html").is_file()
    again = run(warm_python(), "recipes/demo.py", cwd=tmp_path, timeout=120).stdout
    assert "nothing to train" in again
