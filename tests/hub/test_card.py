from __future__ import annotations

import html
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_server import run_with_hub
from hub_state import USER, Hub
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from runs import text_arguments
from tiny_models import tiny_text

from hf_selfattn import run
from hf_selfattn.hub.card import TEMPLATE, model_card
from hf_selfattn.hub.summary import summary, with_near_baselines

TOKEN = "hf_" + "Ab3" * 11
NASTY = [
    "<script>alert(1)</script>",
    "a|b",
    "`code` **bold** _it_ [x](http://evil.example) ![i](y)",
    "two\nlines\r\n---\n# title",
    "key: value # & 'q' \"d\" {a: [b]} %tag @me $x$ :smile:",
    "/r/politics",
    "日本 \u202egnp.exe",
    "back\\slash www.evil.example",
]


def score(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.05}


def make_results(**arguments: Any) -> dict[str, Any]:
    """The record of a run with the splits validation and test and a TF-IDF baseline."""
    scores = {"macro_f1": score(0.8), "accuracy": score(0.81), "ece": score(0.125), "f1/left": score(0.7)}
    split = {"rows": 1234, "fingerprint": "ab12", "scores": scores, "predictions_file": "predictions-test.jsonl"}
    given = {"model": "org/encoder", "train": "rows/train.csv", "test": "rows/test.csv", "dataset": None}
    given |= {"tuning": "lora", "heads": {"num_groups": 8}, "options": {"learning_rate": 0.0003}}
    return {
        "task": "text-classification",
        "problem": "single_label_classification",
        "label_names": ["left", "right"],
        "arguments": {**given, **arguments},
        "seed": 7,
        "parameters": {"all": 23_628_438, "trainable": 605_259},
        "training": {"seconds": 1312.6, "steps": 346, "epochs": 2.0, "processes": 1, "device": "cpu", "bf16": True},
        "environment": {
            "python": "3.11.7",
            "versions": {"torch": "2.13.0+cpu"},
            "platform": "Linux",
            "processor": "a processor",
            "cores": 2,
            "threads": 1,
            "accelerators": [],
        },
        "splits": {"validation": deepcopy(split), "test": deepcopy(split)},
        "baseline": {"tfidf": {"splits": {"test": {"scores": {"macro_f1": score(0.75), "ece": score(0.2)}}}}},
    }


def cells(card: str) -> list[list[str]]:
    """The rows of all tables as a reader sees them."""
    lines = [line[2:-2] for line in card.splitlines() if line.startswith("| ")]
    return [[html.unescape(cell.strip()) for cell in line.split(" | ")] for line in lines]


def test_the_card_parses_and_its_index_goes_round() -> None:
    card = model_card(make_results(), name="user/my-model")
    data = ModelCard(card).data
    assert str(ModelCard(card)) == card
    assert data.to_dict()["library_name"] == "transformers"
    assert (data.pipeline_tag, data.base_model) == ("text-classification", "org/encoder")
    assert data.model_name == "my-model" and data.license is None and data.language is None
    found = [(e.dataset_split, e.metric_type, e.metric_name, e.metric_value) for e in data.eval_results]
    expected = [("f1", "macro_f1", 0.8), ("accuracy", "accuracy", 0.81), ("ece", "ece", 0.125)]
    assert found == [(split, *metric) for split in ("validation", "test") for metric in expected]
    assert {(e.task_type, e.dataset_type) for e in data.eval_results} == {("text-classification", "custom")}
    assert [e.dataset_name for e in data.eval_results if e.dataset_split == "test"] == ["rows/test.csv"] * 3


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("org/encoder", "org/encoder"),
        ("encoder", "encoder"),
        (".data/encoder", None),
        ("/home/me/encoder", None),
        ("folder/encoder", None),
        ("./encoder", None),
        ("C:\\Users\\me\\encoder", None),
        ("https://me:word@host.example/org/encoder", None),
    ],
)
def test_only_a_name_on_the_hub_is_the_base_model(
    model: str, shown: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder" / "encoder").mkdir(parents=True)
    card = model_card(make_results(model=model))
    assert ModelCard(card).data.get("base_model") == shown
    assert "encoder" in card and "/home" not in card and "Users" not in card and "word" not in card
    assert card.count("# encoder-selfattn\n") == 1


def test_only_a_data_set_on_the_hub_is_named_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    where = {"dataset_config": "en", "revision": "v2", "test_files": {"validation": "x.csv"}}
    data = ModelCard(model_card(make_results(dataset="org/news", **where))).data
    assert data.datasets == ["org/news"]
    kinds = {(e.dataset_split, e.dataset_type, e.dataset_config, e.dataset_revision) for e in data.eval_results}
    assert kinds == {("test", "org/news", "en", "v2"), ("validation", "custom", None, None)}
    data = ModelCard(model_card(make_results(dataset="saved", **where))).data
    assert data.datasets is None
    assert {e.dataset_type for e in data.eval_results} == {"custom"}


def test_scores_stand_beside_those_of_the_baseline() -> None:
    results = make_results()
    results["baseline"]["tfidf"]["splits"]["test"]["scores"]["ece"] = None
    card = model_card(results)
    test = card[card.index("### test") : card.index("## Labels")]
    assert "1,234 rows" in test
    assert cells(test) == [
        ["", "model", "tfidf"],
        ["---"] * 3,
        ["macro_f1", "0.800 [0.700, 0.850]", "0.750 [0.650, 0.800]"],
        ["accuracy", "0.810 [0.710, 0.860]", "-"],
        ["ece ↓", "0.125 [0.025, 0.175]", "-"],
    ]
    assert ["left", "0.700 [0.600, 0.750]"] in cells(card)
    within = "On test the baseline tfidf is within the interval of the model by macro_f1: no gain over it is shown."
    assert within in card and within in summary(results)
    results["splits"]["test"]["scores"]["macro_f1"] = {"value": 0.8, "low": 0.76, "high": 0.85}
    assert "the baseline tfidf" not in model_card(results) + summary(results)
    results["baseline"]["tfidf"]["splits"]["test"]["scores"]["macro_f1"] = score(0.8)
    assert "On test the baseline tfidf is at least as good by macro_f1" in model_card(results)
    assert with_near_baselines(results)["splits"]["test"]["within_interval"] == ["tfidf"]
    # Of a loss, less is better.
    for record in (results["splits"]["test"], results["baseline"]["tfidf"]["splits"]["test"]):
        record["scores"] = {"rmse": score(0.8)}
    results["baseline"]["tfidf"]["splits"]["test"]["scores"]["rmse"] = score(0.9)
    assert with_near_baselines(results)["splits"]["test"]["within_interval"] == []
    assert "at least as good" not in model_card(results)


def test_everything_that_belongs_to_a_run_is_shown() -> None:
    shown = {row[0]: row[1:] for row in cells(model_card(make_results(), name="user/my-model"))}
    assert shown["0"] == ["left"] and shown["1"] == ["right"]
    assert shown["heads.num_groups"] == ["8"] and shown["learning_rate"] == ["0.0003"] and shown["seed"] == ["7"]
    assert shown["test"] in (["rows/test.csv"], ["rows/test.csv", "1,234", "ab12"])
    assert shown["torch"] == ["2.13.0+cpu"] and shown["processor"] == ["a processor"] and shown["cores"] == ["2"]
    assert shown["training time"] == ["1,313 s"] and shown["accelerators"] == ["none"]


def test_labels_are_counted() -> None:
    results = make_results()
    results["train"] = {"rows": 9876, "fingerprint": "cd34", "labels": {"left": 9000, "right": 876}}
    card = model_card(results)
    assert "Trained on 9,876 rows (fingerprint cd34)." in card
    assert ["0", "left", "9,000"] in cells(card) and ["1", "right", "876"] in cells(card)
    results["train"]["labels"] = {"PER|x": 12, "LOC": 0}
    shown = cells(model_card({**results, "label_names": ["O", "B-PER|x", "I-PER|x", "B-LOC", "I-LOC"]}))
    assert ["PER|x", "12"] in shown and ["LOC", "0"] in shown and ["1", "B-PER|x"] in shown
    results["train"]["labels"] = {}
    shown = cells(model_card({**results, "problem": "regression", "label_names": ["valence"]}))
    assert ["id", "label"] in shown and ["0", "valence"] in shown


def test_the_backbone_is_what_the_run_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "c" * 40
    hub_name = {"source": "hub", "name": "org/encoder", "revision": None, "commit": commit}
    (tmp_path / "org/encoder").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)  # a folder of that name appeared later
    card = model_card({**make_results(), "backbone": hub_name})
    assert ModelCard(card).data.base_model == "org/encoder" and f"org/encoder (commit {commit}) and reads" in card
    # A folder whose path looks like a name on the hub, and that is not here.
    card = model_card({**make_results(model="my/encoder"), "backbone": {"source": "folder", "name": "encoder"}})
    assert ModelCard(card).data.base_model is None and "my/" not in card and " encoder and reads" in card


def test_the_index_is_what_the_hub_understands() -> None:
    """By the client's own reading of the metadata, errors not ignored, and entries that can be told apart."""
    results = make_results()
    results["splits"]["test"]["scores"] |= {"mcc": None, "pearson": score(float("nan"))}
    for name in (None, "user/my-model"):
        head = yaml.safe_load(model_card(results, name=name).split("---\n")[1])
        title, entries = model_index_to_eval_results(head["model-index"])
        assert title == head["model-index"][0]["name"] and len(entries) == 6
        assert eval_results_to_model_index(title, entries) == head["model-index"]
        data = ModelCardData(**head, ignore_metadata_errors=False)
        assert data.eval_results == entries
        assert len({(e.unique_identifier, e.metric_name) for e in entries}) == len(entries)
        assert all(isinstance(e.metric_value, float) for e in entries)


def test_calibration_is_shown_where_there_is_any() -> None:
    results = make_results()
    assert "not calibrated" in model_card(results) and "## Calibration" not in model_card(results)
    results["calibration"] = {"temperature": 1.0, "thresholds": None}
    assert "not calibrated" in model_card(results)
    results["calibration"] = {"temperature": 1.2345, "thresholds": [0.25, 0.5]}
    results["splits"]["test"]["uncalibrated"] = {"ece": 0.3}
    card = model_card(results)
    assert "temperature 1.234" in card or "temperature 1.235" in card
    assert "not calibrated" not in card
    assert ["left", "0.250"] in cells(card) and ["test", "0.300", "0.125 [0.025, 0.175]"] in cells(card)
    regression = {**make_results(), "problem": "regression", "label_names": ["valence"]}
    assert "calibrated" not in model_card(regression)


def test_markup_in_names_is_text() -> None:
    results = make_results(train="<b>`x: y.csv", lora={NASTY[1]: NASTY[2]}, test_files={NASTY[3]: NASTY[4]})
    results["label_names"] = NASTY
    results["calibration"] = {"temperature": 2.0, "thresholds": [0.5] * len(NASTY)}
    results["train"] = {"rows": 9, "fingerprint": NASTY[0], "labels": dict.fromkeys(NASTY, 1)}
    results["backbone"] = {"source": "folder", "name": NASTY[0], "commit": NASTY[2]}
    extra = results["splits"]["test"]
    extra["scores"] |= {f"f1/{label}": score(0.5) for label in NASTY}
    results["splits"] = {"validation": extra, NASTY[3]: extra}
    card = model_card(results, name="user/my-model")
    assert str(ModelCard(card)) == card

    text = ModelCard(card).text
    for raw in (
        "<script",
        "</script",
        "`code`",
        "**bold**",
        "](http",
        "![",
        "http://",
        "www.",
        "\u202e",
        "@me",
        "$x$",
    ):
        assert raw not in text, raw
    assert [line for line in text.splitlines() if line.startswith("# ")] == ["# my-model"]
    assert "---" not in text.splitlines()
    seen = {row[1] for row in cells(card) if row[0].isdigit()}
    assert seen == {" ".join(label.replace("\u202e", "").split()) for label in NASTY}
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(blocks) >= 6
    for block in blocks:
        assert len({row.count("|") for row in block.splitlines()}) == 1, block
    head = card[: card.index("\n---\n")]
    assert "<" not in head and "`" not in head


def test_no_secret_and_no_path_of_the_machine_is_shown() -> None:
    results = make_results(
        train=["/home/me/data/train.csv", "~/more/rows.csv", "https://me@host.example/a/web.csv?sig=a/secret word"],
        test="C:\\Users\\me\\test.csv",
        test_files={"/home/me/third": "file:///home/me/third.csv"},
        dataset="/home/me/saved",
        lora={"target_modules": r".*\.(query|value)"},
        options={
            "hub_token": "a word",
            "push_to_hub_token": TOKEN,
            "hub": [{"api_key": "another word"}],
            "hub_model_id": f"user/{TOKEN}",
            "logging_dir": "/home/me/logs",
            "optim_args": "state=/home/me/My Files/state",
            "deepspeed": {"nvme": "/home/me/nvme", "password": "third word"},
        },
    )
    results["splits"]["/home/me/third"] = results["splits"]["validation"]
    results["label_names"] = ["left", TOKEN]
    card = model_card(results, name="user/my-model")
    for hidden in (TOKEN, TOKEN[3:], " word", "hub_token", "password", "home", "me/", "Users", "My Files"):
        assert hidden not in card, hidden
    shown = {row[0]: row[1:] for row in cells(card)}
    assert shown["train"] == ["train.csv, rows.csv, web.csv"] and shown["test_files.third"] == ["third.csv"]
    assert shown["lora.target_modules"] == [r".*\.(query|value)"] and shown["logging_dir"] == ["logs"]


def test_the_use_is_three_lines_of_code() -> None:
    blocks = re.findall(r"```python\n(.*?)```", model_card(make_results(), name="user/my-model"), re.DOTALL)
    assert [block.count("\n") for block in blocks] == [3, 2]
    for block in blocks:
        compile(block, "card", "exec")
        assert 'pipeline("text-classification", model="user/my-model"' in block
    assert blocks[0].startswith("import hf_selfattn\n") and "trust_remote_code" not in blocks[0]
    assert "hf_selfattn" not in blocks[1] and "trust_remote_code=True" in blocks[1]


@pytest.mark.parametrize("name", ["../x", "a/b/c", '"); import os #', "/home/me/model", ""])
def test_a_name_that_no_repository_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a repository"):
        model_card(make_results(), name=name)


def test_results_that_make_no_card_are_refused() -> None:
    with pytest.raises(ValueError, match=r"several runs \(seed-1, seed-2\)"):
        model_card({**make_results(), "runs": {"seed-1": {}, "seed-2": {}}})
    results = make_results()
    del results["training"]
    with pytest.raises(ValueError, match="have no training"):
        model_card(results)
    with pytest.raises(ValueError, match="have no splits"):
        model_card({**make_results(), "splits": {}})


def test_the_template_is_installed_with_the_package() -> None:
    root = Path(__file__).parents[2]
    assert str(TEMPLATE.relative_to(root / "hf_selfattn")) in (root / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("markup", ["{{ 7 * 7 }}", "{% for x in y %}", "{# note #}", "{{ card_data }}"])
def test_text_is_never_read_as_a_template(markup: str) -> None:
    results = make_results(train=f"{markup}.csv", lora={markup: markup})
    results["label_names"] = [markup, "right"]
    card = model_card(results)
    assert card.count("base_model: org/encoder") == 1 and "49" not in card
    assert ["0", markup] in cells(card) and [f"lora.{markup}", markup] in cells(card)


def test_the_card_of_a_real_run_passes_the_hub(hub: Hub, tiny_backbone: str, tmp_path: Path) -> None:
    rows = [f"w{10 + i % 2} {tiny_text(5, seed=i)},{('left', 'right')[i % 2]}" for i in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    heads = {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 8, "subsequence_stride": 4}
    settings = {"model": tiny_backbone, "train": str(tmp_path / "rows.csv"), "output_dir": str(tmp_path / "run")}
    results = run(text_arguments({**settings, "heads": heads, "num_train_epochs": 1, "bf16": False}))
    card = model_card(results, name=f"{USER}/model")
    assert str(tmp_path) not in card and tiny_backbone not in card
    assert all(row[2] != "-" for row in cells(card) if row[0] == "accuracy" and len(row) == 3)

    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    code = f"""
from huggingface_hub import ModelCard, create_repo
create_repo("{USER}/model")
ModelCard.load({str(tmp_path / "README.md")!r}).push_to_hub("{USER}/model")
assert str(ModelCard.load("{USER}/model")) == open({str(tmp_path / "README.md")!r}, encoding="utf-8").read()
"""
    run_with_hub(code, hub, tmp_path / "home")
    assert hub.files(f"{USER}/model")["README.md"].decode() == card
