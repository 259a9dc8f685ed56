"""The recipe for named entities from files to a model that a pipeline opens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard
from runs import HEADS, QUICK
from tiny_models import tiny_wordpiece
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerFast, pipeline

from hf_selfattn import NerArguments, build_arguments, run
from hf_selfattn.data import load_splits, prepare_tagging
from hf_selfattn.data.tagging import TaggingData
from hf_selfattn.tasks.tag_encoding import encode_split, legal_tags, tags_of_words
from hf_selfattn.tasks.token_classification import entity_counts

NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


@pytest.fixture
def backbone(wordpiece: str) -> str:
    return wordpiece


def column_file(path: Path, documents: int, seed: int = 0) -> str:
    """A file of documents of three sentences; persons have names of two words, places one word of several tokens."""
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(documents):
        lines += ["-DOCSTART- O", ""]
        for _ in range(3):
            for number in random.integers(30, 80, random.integers(2, 8)):
                kind = number % 4
                if kind == 0:
                    lines += [f"w{number}ab B-PER", f"w{number - 20}-w9 I-PER"]
                elif kind == 1:
                    lines += [f"w{number}.w{number}. B-LOC"]
                else:
                    lines += [f"w{number}c O"]
            lines.append("")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def settings(backbone: str, folder: Path, **changes: Any) -> dict[str, Any]:
    heads = {**HEADS, **changes.pop("heads", {})}
    return {
        "model": backbone,
        "output_dir": str(folder / "run"),
        "train": column_file(folder / "train.txt", 16),
        "test": column_file(folder / "test.txt", 5, seed=1),
        "heads": heads,
        **QUICK,
        **changes,
    }


def run_ner(given: dict[str, Any]) -> dict[str, Any]:
    return run(build_arguments(given, kind=NerArguments))


def predictions_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run/predictions-test.jsonl").read_text().splitlines()]


def spans_of(tags: list[str], words: list[str]) -> list[tuple[int, int, str]]:
    """Start and end in the joined text, and type, of the entities of legal tags."""
    spans: list[tuple[int, int, str]] = []
    start = 0
    for tag, word in zip(tags, words, strict=True):
        if tag[0] == "B":
            spans.append((start, start + len(word), tag[2:]))
        elif tag[0] == "I":
            spans[-1] = (spans[-1][0], start + len(word), tag[2:])
        start += len(word) + 1
    return spans


@pytest.mark.parametrize("decoding", ["argmax", "viterbi", "crf"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_run_is_scored_saved_and_opens(backbone: str, tmp_path: Path, tuning: str, decoding: str) -> None:
    context = "document" if tuning == "full" else "sentence"
    given = settings(
        backbone, tmp_path, tuning=tuning, heads={"decoding": decoding}, context=context, learning_rate=0.01
    )
    results = run_ner(given)
    folder = tmp_path / "run"
    assert results == json.loads((folder / "results.json").read_text())
    assert results["task"] == "token-classification" and results["label_names"] == NAMES
    assert set(results["train"]["labels"]) == {"LOC", "PER"} and all(results["train"]["labels"].values())
    test = results["splits"]["test"]
    assert test["rows"] == 15 and test["documents"] == 5
    for score in test["scores"].values():
        assert score["low"] <= score["value"] <= score["high"]
    for kind in ("f1", "precision", "recall"):
        assert test["scores"].get(kind) == test["scores"].get(f"lenient_{kind}")
    counts = test["errors"]["kinds"]
    assert sum(kind["references"] for kind in counts.values()) == sum(
        tag[0] == "B" for row in predictions_of(tmp_path) for tag in row["reference"]
    )
    rows = predictions_of(tmp_path)
    assert [row["row"] for row in rows] == list(range(15)) and sum(len(row["tokens"]) for row in rows) == test["words"]
    for row in rows:
        assert len(row["tokens"]) == len(row["reference"]) == len(row["output"])
        ids = [NAMES.index(tag) for tag in row["output"]]
        assert legal_tags(ids, NAMES) == ids
    assert ModelCard.load(folder / "README.md").data.pipeline_tag == "token-classification"
    model = AutoModelForTokenClassification.from_pretrained(folder)
    assert model.config.decoding == decoding and (model.crf is not None) == (decoding == "crf")
    assert run_ner(given) == results


def test_entities_of_train_are_counted() -> None:
    tags = [[NAMES.index(name) for name in row] for row in (["B-LOC", "B-LOC", "I-LOC"], ["O", "B-PER"], [])]
    data = TaggingData(DatasetDict({"train": Dataset.from_dict({"tags": tags})}), NAMES, ["LOC", "PER"], [])
    assert entity_counts(data) == {"LOC": 2, "PER": 1}


@pytest.mark.parametrize("context", ["sentence", "document"])
def test_the_checkpoint_is_picked_by_the_scores_that_are_reported(backbone: str, tmp_path: Path, context: str) -> None:
    """Rows come in the order of their lengths, padded, and some twice; words have several tokens."""
    path = Path(column_file(tmp_path / "validation.txt", 7, seed=2))
    path.write_text(path.read_text(encoding="utf-8") * 2, encoding="utf-8")
    changes = {"tuning": "full", "num_train_epochs": 4, "learning_rate": 5e-3, "per_device_eval_batch_size": 3}
    results = run_ner(settings(backbone, tmp_path, validation=str(path), context=context, **changes))
    evaluations = [entry for entry in results["training"]["history"] if "eval_f1" in entry]
    best = max(evaluations, key=lambda entry: entry["eval_f1"])
    assert len(evaluations) == 4 and 0 < best["eval_f1"] < 1
    for name in ("precision", "recall", "f1", "token_accuracy"):
        assert results["splits"]["validation"]["scores"][name]["value"] == best[f"eval_{name}"]


@pytest.mark.parametrize("strategy", ["simple", "first"])
def test_pipeline_finds_what_the_recipe_predicted(backbone: str, tmp_path: Path, strategy: str) -> None:
    given = settings(backbone, tmp_path, tuning="full", num_train_epochs=25, learning_rate=5e-3, seed=1)
    for name in ("train", "test"):  # w41. for w41.w41.: its second half, a place elsewhere, would cut the word
        path = Path(given[name])
        path.write_text(re.sub(r"(w\d+\.)\1", r"\1", path.read_text(encoding="utf-8")), encoding="utf-8")
    results = run_ner(given)
    assert results["splits"]["test"]["scores"]["f1"]["value"] > 0.9, "the entities show in the words"
    tag = pipeline("token-classification", model=str(tmp_path / "run"), aggregation_strategy=strategy)
    rows, found, whole = predictions_of(tmp_path), 0, 0
    for row in rows:
        text, words = " ".join(row["tokens"]), spans_of(["B-X"] * len(row["tokens"]), row["tokens"])
        entities = [(x["start"], x["end"], x["entity_group"]) for x in tag(text)]
        borders = {start for start, _, _ in entities} <= {start for start, _, _ in words}
        if borders and {end for _, end, _ in entities} <= {end for _, end, _ in words}:  # no word is cut
            assert entities == spans_of(row["output"], row["tokens"])
            found += len(entities)
            whole += 1
    assert found > 10 and whole >= 0.8 * len(rows)
    long = " ".join(word for row in rows for word in row["tokens"]) + " w40ab w20-w9"
    last = tag(long)[-1]
    assert (last["end"], last["entity_group"]) == (len(long), "PER")


@pytest.mark.parametrize("whole_documents", [False, True])
def test_every_part_of_a_word_has_its_place(tmp_path: Path, whole_documents: bool) -> None:
    raw = load_splits(train=column_file(tmp_path / "train.txt", 4))
    data = prepare_tagging(raw)
    split, tokenizer = data.splits["train"], tiny_wordpiece()
    tokens = encode_split(split, tokenizer, data.label_names, whole_documents=whole_documents)
    assert len(tokens) == (4 if whole_documents else 12)
    words = [word for row in split["tokens"] for word in row]
    tags = [tag for row in split["tags"] for tag in row]
    places = [place for row in tokens["places"] for place in row if place >= 0]
    assert places == sorted(places) and sorted(set(places)) == list(range(len(words)))
    for row in tokens:
        ids = row["input_ids"]
        pieces = tokenizer.convert_ids_to_tokens(ids)
        assert len(row["labels"]) == len(ids) == row["length"]
        before = -1
        for piece, place, label in zip(pieces, row["places"], row["labels"], strict=True):
            if place < 0:
                assert label == -100 and (piece.startswith("##") or piece in ("[CLS]", "[SEP]"))
            elif place != before:
                assert label == tags[place] and words[place].startswith(piece)
            else:  # a further part of a word, such as the dot of w41.w41.
                assert data.label_names[label] == data.label_names[tags[place]].replace("B-", "I-")
            before = max(place, before)


def test_a_word_is_in_the_entity_of_the_first_of_its_parts_that_is_in_one() -> None:
    words = ["SKIING-WORLD", "CUP", "in", "U.S."]
    parts = [[0, 0, 0, 1, 2, 3, 3, 3, 3]]
    tokens = Dataset.from_dict({"places": [[-1, *parts[0], -1]]})
    split = Dataset.from_dict({"tokens": [words]})
    names = ["O", "B-MISC", "I-MISC", "B-LOC", "I-LOC"]
    said = ["O", "O", "O", "O", "B-MISC", "O", "B-LOC", "I-LOC", "O", "O", "O"]
    found = np.array([[names.index(name) for name in said]])
    assert tags_of_words(found, [0], tokens, split, names) == [[0, names.index("B-MISC"), 0, names.index("B-LOC")]]
    said[2:5] = ["O", "B-MISC", "I-MISC"]
    found = np.array([[names.index(name) for name in said]])
    (tags,) = tags_of_words(found, [0], tokens, split, names)
    assert [names[tag] for tag in tags] == ["B-MISC", "I-MISC", "O", "B-LOC"]
    with pytest.raises(ValueError, match="1 rows were evaluated, but 2"):
        tags_of_words(np.concatenate([found, found]), [0, 0], tokens, split, names)


def test_illegal_tags_are_read_as_conlleval_does() -> None:
    names = ["I-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-PER"]
    expected = ["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "B-PER"]
    assert legal_tags([NAMES.index(n) for n in names], NAMES) == [NAMES.index(n) for n in expected]


def test_several_seeds_stand_in_one_record(backbone: str, tmp_path: Path) -> None:
    results = run_ner(settings(backbone, tmp_path, seeds=2))
    assert list(results["runs"]) == ["seed-0", "seed-1"]
    assert results["summary"]["test"]["token_accuracy"]["runs"] == 2


def test_check_reports_and_trains_nothing(backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_ner(settings(backbone, tmp_path, check=True))
    assert not (tmp_path / "run").exists() and "PER" in capsys.readouterr().out
    assert report["splits"]["test"]["documents"] == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_column": "x"}, "There is no argument 'label_column'"),
        ({"folds": 3}, "There is no argument 'folds'"),
        ({"contxt": "document"}, "Did you mean 'context'"),
        ({"context": "page"}, "'sentence' or 'document'"),
        ({"heads": {"decoding": "beam"}}, "decoding"),
        ({"selection_metric": "f2"}, "f2"),
        ({"tag_column": 7}, "7"),
    ],
)
def test_bad_input_is_an_error_that_names_it(
    backbone: str, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        run_ner(settings(backbone, tmp_path, **change))


def test_characters_are_words_where_a_text_has_no_spaces(tmp_path: Path) -> None:
    row = {"text": "王明在北京", "spans": [[0, 2, "PER"], [3, 5, "LOC"]]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    data = prepare_tagging(load_splits(train=tmp_path / "train.jsonl"))
    characters = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[UNK]"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    characters.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=characters, unk_token="[UNK]")
    (tokens,) = encode_split(data.splits["train"], tokenizer, data.label_names, whole_documents=False)
    assert tokens["places"] == [-1, 0, 1, 2, 3, 4, -1]
    tags = [data.label_names[label] for label in tokens["labels"][1:-1]]
    assert tags == ["B-PER", "I-PER", "O", "B-LOC", "I-LOC"]


@pytest.mark.parametrize(
    "changes",
    [
        {"tuning": "lora"},
        {"tuning": "full", "heads": {"decoding": "crf"}},
        {"tuning": "full", "label_smoothing_factor": 0.1},
        {"tuning": "full", "context": "document", "heads": {"decoding": "viterbi"}},
        {"tuning": "probe"},
    ],
    ids=str,
)
def test_rows_that_the_tokenizer_turns_into_nothing_count_for_nothing(
    backbone: str, tmp_path: Path, changes: dict[str, Any]
) -> None:
    given = settings(backbone, tmp_path, **changes)
    nothing = "-DOCSTART- O\n\n\u2003 O\n\n" * 12  # batches of rows without one token
    for name in ("train", "test"):
        path = Path(given[name])
        path.write_text(path.read_text(encoding="utf-8") + nothing, encoding="utf-8")
    results = run_ner(given)
    losses = [entry["loss"] for entry in results["training"]["history"] if "loss" in entry]
    assert np.isfinite(losses).all() and np.isfinite(results["splits"]["test"]["scores"]["f1"]["value"])
    assert predictions_of(tmp_path)[-1]["output"] == ["O"]
