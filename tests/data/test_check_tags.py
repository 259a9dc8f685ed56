"""The report on tagging data: counts, lengths, and each kind of finding with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_selfattn.data import check_tagging, format_report, load_splits, prepare_tagging


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per letter between [CLS] and [SEP]; zero-width spaces vanish."""
    letters = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[UNK]"))
    letters.normalizer = normalizers.Replace("\u200b", "")
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    letters.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


TRAIN = """-DOCSTART- O

Rome B-LOC
fell O

\u200b O
Ann I-PER

Rome B-LOC
fell O

-DOCSTART- O

it O
rains O
Ann B-PER
"""
TEST = """-DOCSTART- O

Rome B-LOC
fell O

\u200b O
Ann B-PER

Rome O
fell O

-DOCSTART- O

Bo B-ORG
"""


@pytest.fixture
def report(tokenizer: Any, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "train.txt").write_text(TRAIN, encoding="utf-8")
    (tmp_path / "test.txt").write_text(TEST, encoding="utf-8")
    splits = load_splits(train=tmp_path / "train.txt", test=tmp_path / "test.txt")
    return check_tagging(splits, tokenizer, 10)


def finding(report: dict[str, Any], kind: str, split: str) -> tuple[int, list[str]]:
    found = [item for item in report["findings"] if (item["kind"], item["split"]) == (kind, split)]
    assert len(found) == 1, report["findings"]
    return found[0]["count"], ["/".join(place.rsplit("/", 1)[1:]) for place in found[0]["places"]]


def test_counts_and_lengths(report: dict[str, Any]) -> None:
    train, test = report["splits"]["train"], report["splits"]["test"]
    assert (train["rows"], train["documents"], train["words"]) == (4, 2, 9)
    assert train["entities"] == {"LOC": 2, "PER": 2} and test["entities"] == {"LOC": 1, "PER": 1}
    assert train["lengths"]["max"] == 12 and train["longer_than_window"] == 1  # it rains Ann: 10 letters + 2
    assert (report["scheme"], report["entity_types"]) == ("IOB2", ["LOC", "PER"])
    json.dumps(report)


def test_findings_have_places(report: dict[str, Any]) -> None:
    assert finding(report, "broken_tag", "train") == (1, ["train.txt:7"])
    assert finding(report, "tag_unknown", "test") == (1, ["test.txt:14"])
    assert finding(report, "word_without_tokens", "train") == (1, ["train.txt:6"])
    assert finding(report, "duplicate", "train")[0] == 1
    assert finding(report, "conflicting_labels", "test")[0] == 1
    assert finding(report, "in_two_splits", "train")[0] == 3
    assert finding(report, "document_in_two_splits", "train")[0] == 1
    kinds = [item["kind"] for item in report["findings"]]
    assert kinds.count("rare_type") == 2


def test_the_report_as_text(report: dict[str, Any]) -> None:
    text = format_report(report)
    assert "train: 4 rows, 2 documents, 9 words\n  entities: LOC 2, PER 2\n" in text
    assert "[word_without_tokens] train: a word that the tokenizer turns into nothing" in text
    assert "1 word(s), " in text and "Tagging scheme: IOB2" in text


def test_prepared_data_and_clean_data(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(f"Rome{i} B-LOC\nfell O" for i in range(10)))
    data = prepare_tagging(load_splits(train=tmp_path / "a.txt"))
    report = check_tagging(data, tokenizer, 100)
    assert report["findings"] == [] and report["splits"]["train"]["entities"] == {"LOC": 10}
    assert "No findings" in format_report(report)
    with pytest.raises(ValueError, match="the data has no rows"):
        check_tagging({"train": data.splits["train"].select([])}, tokenizer, 100)
