"""Sounds with labels or transcripts: folders, tables and data sets to checked rows, reports, and vocabularies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Dataset, DatasetDict
from sound_samples import known_sound, sound_file, write_sound
from transformers import AutoTokenizer

from hf_selfattn.data import fingerprint, format_report, k_folds, make_validation
from hf_selfattn.data.formats import ORIGIN
from hf_selfattn.data.sounds import (
    Normalisation,
    SoundData,
    SpeechData,
    build_vocabulary,
    check_sounds,
    check_speech,
    deduplicate_sounds,
    load_sounds,
    normalise_transcripts,
    open_sound,
    read_sounds,
    read_speech,
)

TEXTS = ["Good morning.", "It's late", "good night", "see you", "thank you", "well, no"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of three sounds in train, of one in val; and a table of transcripts."""
    for number in range(6):
        path = tmp_path / "train" / ("yes", "no")[number % 2] / f"{number}.wav"
        write_sound(path, pitch=1 + number / 50)
    write_sound(tmp_path / "val" / "yes" / "a.flac", "FLAC", pitch=0.9)
    write_sound(tmp_path / "val" / "no" / "b.flac", "FLAC", pitch=0.8)
    write_table(tmp_path / "rows.jsonl", speech_rows())
    return tmp_path


def speech_rows() -> list[dict[str, Any]]:
    return [
        {"path": f"train/{('yes', 'no')[n % 2]}/{n}.wav", "sentence": text, "speaker": f"s{n // 2}"}
        for n, text in enumerate(TEXTS)
    ]


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    separator = {".csv": ";", ".tsv": "\t"}.get(path.suffix)
    if separator:
        lines = [separator.join(map(str, values)) for values in [rows[0].keys(), *(row.values() for row in rows)]]
    else:
        lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def kinds_of(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {found["kind"]: found for found in report["findings"]}


def test_folders_of_splits_and_labels(folder: Path) -> None:
    (folder / "train" / "yes" / "notes.txt").write_text("none")
    write_sound(folder / "train" / "yes" / "bare", "MP3")
    data = read_sounds(load_sounds(dataset=folder))
    assert isinstance(data, SoundData) and data.label_names == ["no", "yes"]
    assert data.splits.num_rows == {"train": 7, "validation": 2}
    row = data.splits["train"][0]
    assert row["sound"] == {"bytes": None, "path": str(folder / "train/no/1.wav")} and row["label"] == 0
    assert row["seconds"] == pytest.approx(0.3)
    assert np.abs(open_sound(row["sound"], 16_000) - known_sound(16_000, pitch=1.02)).max() < 1e-3
    notes = "\n".join(data.notes)
    assert f"1 file(s) left out that are no sounds: {folder}/train/yes/notes.txt" in notes
    assert f"1 file(s) read as sounds by their content, whose suffix does not say so: {folder}/train/yes/bare" in notes


def test_sounds_that_are_not_read_are_refused_rather_than_left_out(folder: Path) -> None:
    (folder / "train" / "yes" / "phone.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(50))
    with pytest.raises(ValueError, match=r"no sound but MPEG-4, as M4A.*: 1 row\(s\), .*phone.m4a"):
        read_sounds(load_sounds(dataset=folder))


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl"])
def test_tables_of_paths_and_transcripts(folder: Path, name: str) -> None:
    data = read_speech(load_sounds(train=write_table(folder / name, speech_rows())), keep_columns=["speaker"])
    assert isinstance(data, SpeechData) and data.problem == "speech_recognition" and data.label_names == []
    train = data.splits["train"]
    assert train["transcript"][:] == TEXTS and train["speaker"][:] == ["s0", "s0", "s1", "s1", "s2", "s2"]
    assert [cell["path"] for cell in train["sound"]] == [str(folder / row["path"]) for row in speech_rows()]
    assert train[ORIGIN][0].startswith(f"{folder}/{name}:") and train["seconds"][:] == [0.3] * 6
    assert "Columns: sound 'path', transcript 'sentence'." in data.notes


def test_tables_of_paths_and_labels_in_another_folder(folder: Path, tmp_path: Path) -> None:
    rows = [{"audio": row["path"].replace("/", "\\"), "language": "ab"[n % 2]} for n, row in enumerate(speech_rows())]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    data = read_sounds(load_sounds(train=write_table(elsewhere / "rows.csv", rows), sound_folder=folder))
    assert data.label_names == ["a", "b"] and data.splits["train"]["label"][:] == [0, 1] * 3


def as_hub(folder: Path, **feature: Any) -> Dataset:
    """Rows as the hub has them: bytes in a column of the type Audio, which wants to be decoded."""
    rows = [
        {"audio": {"bytes": (folder / row["path"]).read_bytes(), "path": "x.wav"}, "text": row["sentence"]}
        for row in speech_rows()
    ]
    return Dataset.from_list(rows).cast_column("audio", datasets.Audio(sampling_rate=16_000, **feature))


@pytest.mark.parametrize("form", ["memory", "parquet", "saved", "plain parquet"])
def test_columns_of_bytes_are_never_decoded(folder: Path, form: str) -> None:
    hub = as_hub(folder)
    if form == "parquet":
        hub.to_parquet(folder / "a.parquet")
    elif form == "saved":
        hub.save_to_disk(str(folder / "saved"))
    elif form == "plain parquet":
        rows = [{"wav": (folder / row["path"]).read_bytes(), "text": row["sentence"]} for row in speech_rows()]
        Dataset.from_list(rows).to_parquet(folder / "a.parquet")
    source = {"memory": {"dataset": DatasetDict(train=hub)}, "saved": {"dataset": folder / "saved"}}
    splits = load_sounds(**source.get(form, {"train": folder / "a.parquet"}))
    data = read_speech(splits)
    assert data.splits["train"]["transcript"][:] == TEXTS
    cells = data.splits["train"]["sound"][:]
    assert all(len(open_sound(cell, 8_000)) == 2_400 for cell in cells)
    assert data.splits["train"].features["sound"].decode is False


def test_each_bad_row_is_named(folder: Path) -> None:
    rows = speech_rows()
    rows[0]["path"], rows[1]["sentence"], rows[2]["path"] = "none.wav", " ", ""
    broken = folder / rows[3]["path"]
    broken.write_bytes(broken.read_bytes()[:-30])
    splits = load_sounds(train=write_table(folder / "rows.csv", rows))
    with pytest.raises(ValueError) as caught:
        read_speech(splits)
    for said in (
        f"no such file: 1 row(s), {folder}/rows.csv:2 ({folder}/none.wav)",
        f"no sound (empty or null): 1 row(s), {folder}/rows.csv:4",
        f"truncated or broken: 1 row(s), {folder}/rows.csv:5 ({broken})",
        f"the text is empty or only whitespace: 1 row(s), {folder}/rows.csv:3",
    ):
        assert said in str(caught.value)
    data = read_speech(splits, on_bad_row="drop")
    assert data.splits["train"]["transcript"][:] == TEXTS[4:] and len(data.dropped) == 4
    assert len(read_speech(splits, on_bad_row="drop", verify_sounds=False).splits["train"]) == 5
    with pytest.raises(ValueError, match="on_bad_row='skip' is unknown"):
        read_speech(splits, on_bad_row="skip")


def test_columns_that_are_not_known(folder: Path) -> None:
    rows = [{"where": row["path"], "said": row["sentence"]} for row in speech_rows()]
    splits = load_sounds(train=write_table(folder / "rows.csv", rows))  # found by its cells
    with pytest.raises(ValueError, match=r"no column of transcripts .*\['where', 'said'\]. Set transcript_column="):
        read_speech(splits)
    assert read_speech(splits, transcript_column="said").splits["train"]["transcript"][:] == TEXTS
    with pytest.raises(ValueError, match=r"there is no column 'words' \(transcript_column\)"):
        read_speech(splits, transcript_column="words")
    with pytest.raises(ValueError, match=r"there is no column 'x' \(sound_column\)"):
        load_sounds(train=folder / "rows.csv", sound_column="x")
    both = load_sounds(train=write_table(folder / "two.jsonl", [{**row, "text": "x"} for row in speech_rows()]))
    assert any("['text'] could, too" in note for note in read_speech(both).notes)


def test_a_test_split_without_transcripts_is_not_scored(folder: Path) -> None:
    hidden = write_table(folder / "test.jsonl", [{**row, "sentence": None} for row in speech_rows()])
    data = read_speech(load_sounds(train=folder / "rows.jsonl", test=hidden))
    assert list(data.splits) == ["train"] and "test: no row has a transcript, so it is not scored." in data.notes
    with pytest.raises(ValueError, match="no text"):
        read_speech(load_sounds(train=hidden))


def test_splits_by_speaker_and_fingerprints(folder: Path) -> None:
    data = read_speech(load_sounds(train=folder / "rows.jsonl"), keep_columns=["speaker"])
    cut = make_validation(data, fraction=0.3, group_column="speaker")
    assert isinstance(cut, SpeechData) and not {*cut.splits["train"]["speaker"]} & {
        *cut.splits["validation"]["speaker"]
    }
    folds = list(k_folds(data, 3))
    assert sorted(text for fold in folds for text in fold.splits["test"]["transcript"]) == sorted(TEXTS)
    before = fingerprint(data.splits["train"])
    assert before == fingerprint(read_speech(load_sounds(train=folder / "rows.jsonl")).splits["train"])
    write_sound(folder / "train/yes/0.wav", pitch=2)
    assert before != fingerprint(data.splits["train"])


def test_report_on_what_is_right(folder: Path) -> None:
    report = check_sounds(load_sounds(dataset=folder))
    assert report["splits"]["train"]["rates"] == {"16000": 6} and report["splits"]["train"]["seconds"]["max"] == 0.3
    assert {found["kind"] for found in report["findings"]} == {"rare_class"}
    assert json.loads(json.dumps(report)) == report and "files: WAV PCM_16 6" in format_report(report)
    data = read_sounds(load_sounds(dataset=folder))
    assert check_sounds(data)["findings"] == report["findings"]


def write_odd_sounds(folder: Path) -> dict[str, Path]:
    """A file for each kind of finding."""
    sound, places = known_sound(16_000), {}
    odd = {
        "sound_silent": np.zeros(4_800),
        "sound_cancelled": np.stack([sound, -sound], axis=1),
        "sound_clipped": np.clip(sound * 9, -1, 1),
        "sound_short": sound[:1_000],
        "duplicate": known_sound(16_000, pitch=1.02),
    }
    for kind, samples in odd.items():
        places[kind] = folder / "train" / "yes" / f"{kind}.wav"
        soundfile.write(places[kind], samples, 16_000)
    places["sound_broken"] = folder / "train" / "yes" / "broken.wav"
    places["sound_broken"].write_bytes(sound_file()[:-100])
    places["sound_wrong_suffix"] = write_sound(folder / "train" / "yes" / "flac.wav", "FLAC", pitch=1.3)
    places["rate_mixture"] = write_sound(folder / "train" / "yes" / "8.wav", rate=8_000, pitch=1.2)
    places["sound_not_one"] = folder / "train" / "yes" / "text.wav"
    places["sound_not_one"].write_text("text")
    places["sound_empty"] = folder / "train" / "yes" / "empty.wav"
    places["sound_empty"].write_bytes(b"")
    return places


def test_report_names_every_file(folder: Path) -> None:
    places = write_odd_sounds(folder)
    samples = soundfile.read(folder / "train" / "yes" / "2.wav", dtype="int16")[0]
    soundfile.write(folder / "val" / "yes" / "c.flac", samples, 16_000)
    found = kinds_of(check_sounds(load_sounds(dataset=folder)))
    for kind, path in places.items():
        assert any(str(path) in place for place in found[kind]["places"]), kind
    assert found["duplicate"]["places"] == [f"{places['duplicate']} = {folder}/train/no/1.wav"]
    assert "has another label" in found["conflicting_labels"]["message"]
    assert found["in_two_splits"]["places"] == [f"{folder}/train/yes/2.wav = {folder}/val/yes/c.flac"]
    assert found["channels_mixture"]["places"] == [str(places["sound_cancelled"])]
    data = read_sounds(load_sounds(dataset=folder), on_bad_row="drop")
    assert len(data.dropped) == 3
    fewer = deduplicate_sounds(data)
    assert len(data.splits["train"]) - len(fewer.splits["train"]) == 2 and len(fewer.splits["validation"]) == 3


def test_report_says_where_files_tell_the_label(folder: Path) -> None:
    for number in range(6):
        if number % 2:
            write_sound(folder / f"train/no/{number}.wav", rate=8_000, pitch=1 + number / 50)
    found = kinds_of(check_sounds(load_sounds(train=folder / "train")))
    assert "alone tell 100% of the labels, where guessing tells 50%" in found["file_tells_label"]["message"]


def test_report_on_odd_lengths(tmp_path: Path) -> None:
    for number in range(20):
        write_sound(tmp_path / "ab"[number % 2] / f"{number}.wav", rate=1_000 + number, seconds=0.2)
    long = write_sound(tmp_path / "a" / "long.wav", seconds=6)
    assert kinds_of(check_sounds(load_sounds(train=tmp_path)))["sound_long"]["places"] == [str(long)]


def test_report_on_transcripts(folder: Path) -> None:
    rows = speech_rows()
    rows[0]["sentence"], rows[1]["sentence"], rows[2]["sentence"] = "so much for so short a sound", "", "fÃ¼r 3"
    write_sound(folder / rows[3]["path"], seconds=5)
    rows[3]["sentence"] = "a"
    test = [{**rows[4], "sentence": "Thank  YOU"}, {**rows[5], "sentence": "jazz", "speaker": "new"}]
    raw = load_sounds(train=write_table(folder / "a.jsonl", rows), test=write_table(folder / "b.jsonl", test))
    report = check_speech(raw, group_column="speaker")
    found, place = kinds_of(report), f"{folder}/a.jsonl"
    assert found["transcript_empty"]["places"] == [f"{place}:2"]
    assert found["transcript_too_long"]["places"] == [f"{place}:1 ({folder}/train/yes/0.wav)"]
    assert found["transcript_too_short"]["places"] == [f"{place}:4 ({folder}/train/no/3.wav)"]
    assert found["mojibake"]["places"] == found["digits"]["places"] == [f"{place}:3"]
    assert "3" in found["rare_character"]["message"] and found["unknown_character"]["places"]
    assert found["transcript_in_two_splits"]["places"] == [f"{place}:5"]
    assert found["group_in_two_splits"]["places"] == [f"{place}:5 (s2)", f"{place}:6 (s2)"]
    assert "has another transcript" in found["conflicting_transcripts"]["message"]
    assert "characters: " in format_report(report)
    with pytest.raises(ValueError, match=r"train: there is no column 'who' \(group_column\)"):
        check_speech(raw, group_column="who")


NORMAL = [
    (Normalisation(), "Cafe\u0301  Müller's –\tend.", "Café Müller's – end."),
    (Normalisation("lower"), "Don\u2019t STOP!", "don\u2019t stop!"),
    (Normalisation("lower", True), "Don\u2019t STOP!", "don't stop"),
    (Normalisation("upper", True), "'well-known', and/or \u00abtwo\u00bb …", "WELL KNOWN AND OR TWO"),
    (Normalisation("keep", True), "rock 'n' roll costs 5 $", "rock n roll costs 5"),
]


@pytest.mark.parametrize(("normalisation", "text", "expected"), NORMAL)
def test_normalisation(normalisation: Normalisation, text: str, expected: str) -> None:
    assert normalisation.apply(text) == expected and normalisation.apply(expected) == expected


def test_normalisation_is_said_and_empties_nothing(folder: Path) -> None:
    write_table(folder / "rows.jsonl", [*speech_rows(), {**speech_rows()[0], "sentence": "..."}])
    data = read_speech(load_sounds(train=folder / "rows.jsonl"))
    with pytest.raises(ValueError, match=r"nothing is left of the transcript .*: 1 row\(s\), .*rows.jsonl:7"):
        normalise_transcripts(data, Normalisation(remove_punctuation=True))
    normal = normalise_transcripts(data, Normalisation("lower", True), on_bad_row="drop")
    assert normal.splits["train"]["transcript"][:2] == ["good morning", "it's late"]
    assert len(normal.splits["train"]) == 6 and [row.index for row in normal.dropped] == [6]
    assert "Transcripts: Unicode NFC, one space between words, lower case, no punctuation" in "\n".join(normal.notes)
    assert "train: left out of the transcripts: . ," in normal.notes
    with pytest.raises(ValueError, match="case='fold' is unknown; it is one of keep, lower, upper"):
        Normalisation("fold")


def test_vocabulary_becomes_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    test = write_table(folder / "test.jsonl", [{**speech_rows()[0], "sentence": "jazz"}])
    data = read_speech(load_sounds(train=folder / "rows.jsonl", test=test))
    data = normalise_transcripts(data, Normalisation("lower", True))
    vocabulary = build_vocabulary(data)
    letters = sorted({*"".join(data.splits["train"]["transcript"])} - {" "})
    assert list(vocabulary.tokens) == ["<pad>", "<unk>", "|", *letters]
    assert "characters that train does not have, never predicted: j z (1 row(s)" in "\n".join(vocabulary.notes)
    tokenizer = vocabulary.tokenizer()
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.word_delimiter_token_id) == (0, 1, 2)
    assert len(tokenizer) == len(vocabulary.tokens)
    tokenizer.save_pretrained(tmp_path / "saved")
    opened = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in data.splits["train"]["transcript"]:
        ids = opened(text).input_ids
        assert ids == tokenizer(text).input_ids == [vocabulary.tokens[c if c != " " else "|"] for c in text]
        blanks = [number for one in ids for number in (one, 0)]  # CTC: a blank after each
        assert opened.decode(blanks) == text
    assert opened("jazz").input_ids == [1, vocabulary.tokens["a"], 1, 1]


def test_vocabulary_warnings_and_refusals(folder: Path) -> None:
    rows = speech_rows()
    rows[2]["sentence"] = "GOOD | night"
    data = read_speech(load_sounds(train=write_table(folder / "rows.jsonl", rows)))
    with pytest.raises(ValueError, match=r"1 row\(s\) hold '\|', .*: .*rows.jsonl:3"):
        build_vocabulary(data)
    vocabulary = build_vocabulary(data, word_delimiter="_", least_count=2)
    assert "I" not in vocabulary.tokens and vocabulary.tokens["_"] == 2
    notes = "\n".join(vocabulary.notes)
    assert "Unknown, since rarer than 2: " in notes and "letters stand in both cases" in notes
    with pytest.raises(ValueError, match="one visible character"):
        build_vocabulary(data, word_delimiter=" ")
    data.splits = DatasetDict(test=data.splits["train"])
    with pytest.raises(ValueError, match="there is no train split"):
        build_vocabulary(data)
