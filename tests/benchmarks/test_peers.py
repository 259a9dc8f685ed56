"""The peers of the study: trained by the runner on tiny rows, scored and kept like ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_models import tiny_text, tiny_wordpiece
from transformers import AutoModel, AutoModelForSequenceClassification

from benchmarks.peers.linear import embeddings
from benchmarks.peers.max_pool import MaxPoolArguments, MaxPoolHead
from benchmarks.peers.stock import StockNerArguments
from benchmarks.peers.stock_classification import StockArguments
from benchmarks.quality import predictions
from benchmarks.quality import run as runner
from benchmarks.quality.draws import drawn
from benchmarks.records import read_results, rounded
from hf_selfattn import build_arguments, run
from hf_selfattn.tasks import task_of
from hf_selfattn.tasks.backbone import open_backbone
from hf_selfattn.tasks.tag_encoding import IGNORED
from hf_selfattn.tasks.token_classification import TokenClassification

LABELS = ("left", "right", "up")
SIZES = {"train": 36, "validation": 12, "test": 11}
QUICK = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "bf16": False,
    "disable_tqdm": True,
    "baseline": False,
}


def write_texts(folder: Path, regression: bool = False) -> dict[str, str]:
    """Rows whose label shows in the first word; every fifth text is longer than the backbone's window."""
    paths = {}
    for seed, (part, count) in enumerate(SIZES.items()):
        rows = [
            {
                "text": f"w{10 + i % 3} " + tiny_text(70 if i % 5 == 0 else 4 + i % 7, seed=1000 * seed + i),
                "label": i % 3 - 0.5 if regression else LABELS[i % 3],
            }
            for i in range(count)
        ]
        paths[part] = folder / f"{part}.jsonl"
        paths[part].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {part: str(path) for part, path in paths.items()}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runner's folders, in a temporary one."""
    monkeypatch.chdir(tmp_path)
    for name in ("RUNS", "RESULTS"):
        monkeypatch.setattr(runner, name, tmp_path / name.lower())
    return tmp_path


def write_experiment(folder: Path, backbone: str, rows: dict[str, Any], **changes: Any) -> Path:
    settings = {"model": backbone, **write_texts(folder, changes.pop("regression", False)), **QUICK}
    experiment = {"settings": {**settings, **changes.pop("settings", {})}, "seeds": [0], "rows": rows, **changes}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(experiment, sort_keys=False), encoding="utf-8")
    return path


CLASSIFIERS = {
    "tfidf": {"recipe": "tfidf"},
    "embedding-lr": {"recipe": "embedding-lr"},
    "stock-frozen": {"recipe": "stock-classification", "tuning": "frozen"},
    "max-pool": {"recipe": "max-pool", "tuning": "full"},
    "ours": {"heads": {"head_dim": 8, "group_dim": 8, "block_size": 8, "num_groups": 4, "subsequence_stride": 4}},
}


@pytest.mark.parametrize("regression", [False, True])
def test_every_peer_answers_each_test_row_in_order(tiny_backbone: str, places: Path, regression: bool) -> None:
    path = write_experiment(places, tiny_backbone, CLASSIFIERS, regression=regression)
    record = runner.run_experiment(path)
    assert list(record["runs"]) == [f"{name}-seed-0" for name in CLASSIFIERS]
    references = [json.loads(line)["label"] for line in (places / "test.jsonl").read_text().splitlines()]
    expected = references if regression else [sorted(LABELS).index(label) for label in references]
    for name, entry in record["runs"].items():
        rows = predictions.read_rows(places / "runs" / "tiny" / "predictions" / f"{name}.jsonl.gz")
        assert [row["row"] for row in rows] == list(range(SIZES["test"]))
        assert [row["reference"] for row in rows] == expected
        outputs = np.array([row["output"] for row in rows])
        if not regression:
            assert outputs.shape == (SIZES["test"], 3) and np.allclose(outputs.sum(1), 1, atol=1e-4)
        metric = "pearson" if regression else "macro_f1"
        value, low, high = entry["scores"]["test"][metric]
        assert low <= value <= high and entry["training"]["seconds"] > 0
        assert not any("/" in metric for metric in entry["scores"]["test"])


def test_a_second_start_trains_what_is_missing_only(
    tiny_backbone: str, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"tfidf": {"recipe": "tfidf"}, "embedding-lr": {"recipe": "embedding-lr", "seeds": [3]}}
    path = write_experiment(places, tiny_backbone, rows, seeds=[0, 1], keep_models=False)
    assert list(runner.run_experiment(path, ["embedding-lr"])["runs"]) == ["embedding-lr-seed-3"]
    record = runner.run_experiment(path)
    assert set(record["runs"]) == {"tfidf-seed-0", "tfidf-seed-1", "embedding-lr-seed-3"}
    assert not list((places / "runs" / "tiny").glob("*-seed-*"))
    monkeypatch.setattr(runner, "RECIPES", {})
    again = runner.run_experiment(path)
    assert again == read_results(places / "results" / "tiny.json") and again["runs"] == rounded(record["runs"])


def test_a_grid_is_tried_for_the_first_seed_and_its_best_trained_for_all(
    tiny_backbone: str, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"slow": {"learning_rate": 1e-4}, "fast": {"learning_rate": 2e-2}}
    row = {"recipe": "stock-classification", "tuning": "frozen", "grid": grid}
    path = write_experiment(places, tiny_backbone, {"stock": row}, seeds=[0, 1], metric="accuracy", keep_models=False)
    with pytest.raises(ValueError, match="stock tries slow, fast"):
        runner.run_experiment(path, ["stock=slow", "stock-seed-0"])
    runs = runner.run_experiment(path)["runs"]
    assert list(runs) == ["stock=slow-seed-0", "stock=fast-seed-0", "stock-seed-0", "stock-seed-1"]
    scores = {name: runs[f"stock={name}-seed-0"]["scores"]["validation"]["accuracy"][0] for name in grid}
    best = max(grid, key=scores.__getitem__)
    assert runs["stock-seed-0"] == {**runs[f"stock={best}-seed-0"], "grid": best}
    assert runs["stock-seed-1"]["arguments"]["options"]["learning_rate"] == grid[best]["learning_rate"]
    assert [step for step, _ in runs["stock-seed-0"]["training"]["curve"]] != []
    kept = places / "runs" / "tiny" / "predictions"
    assert (kept / "stock-seed-0.jsonl.gz").read_bytes() == (kept / f"stock={best}-seed-0.jsonl.gz").read_bytes()


def test_seeds_come_one_after_the_other() -> None:
    files = {part: f"split-{{seed}}/{part}.jsonl" for part in SIZES}
    experiment = {"settings": files, "seeds": [4, 5], "rows": {"a": {}, "b": {"seeds": [4]}, "c": {"x": 1}}}
    plan = dict(runner.planned(experiment))
    assert list(plan) == ["a-seed-4", "b-seed-4", "c-seed-4", "a-seed-5", "c-seed-5"]
    assert plan["c-seed-5"] == {"x": 1, "seed": 5, **{part: f"split-5/{part}.jsonl" for part in SIZES}}


@pytest.mark.parametrize("recipe", ["stock-classification", "max-pool"])
def test_frozen_trains_the_head_alone(tiny_backbone: str, places: Path, recipe: str) -> None:
    kind, _ = runner.RECIPES[recipe]
    settings = {"model": tiny_backbone, **write_texts(places), **QUICK, "tuning": "frozen", "learning_rate": 0.1}
    run(build_arguments({**settings, "output_dir": str(places / "run")}, kind=kind))
    trained = AutoModelForSequenceClassification.from_pretrained(places / "run")
    before = AutoModel.from_pretrained(tiny_backbone).state_dict()
    after = {name: values for name, values in trained.base_model.state_dict().items() if name in before}
    assert len(after) >= len(before) - 2  # the small head has no pooler
    assert all(torch.equal(values, before[name]) for name, values in after.items())


@pytest.mark.parametrize("kind", [StockArguments, MaxPoolArguments])
def test_lora_of_a_peer_trains_adapters_and_head(tiny_backbone: str, places: Path, kind: type[StockArguments]) -> None:
    settings = {"model": tiny_backbone, **write_texts(places), **QUICK, "tuning": "lora", "output_dir": "run"}
    arguments = build_arguments(settings, kind=kind)
    task = task_of(arguments)
    data = task.load()
    model = task.build_model(data, open_backbone(arguments)[0])
    trained = {name for name, values in model.named_parameters() if values.requires_grad}
    assert trained and all("lora_" in name or "classifier" in name or ".head." in name for name in trained)
    assert any("lora_" in name for name in trained) and any("classifier" in name for name in trained)


def test_peers_cut_long_texts_as_truncation_does(tiny_backbone: str, places: Path) -> None:
    settings = {"model": tiny_backbone, **write_texts(places), **QUICK, "output_dir": "run"}
    arguments = build_arguments(settings, kind=StockArguments)
    task, (_, tokenizer) = task_of(arguments), open_backbone(arguments)
    data = task.load()
    tokens = task.encode(data, tokenizer)["train"]
    expected = tokenizer(list(data.splits["train"]["text"]), truncation=True, max_length=32)
    assert tokens["input_ids"][:] == expected["input_ids"] and max(tokens["length"][:]) == 32
    assert tokens["attention_mask"][:] == expected["attention_mask"]


def test_peers_refuse_our_heads(tiny_backbone: str) -> None:
    with pytest.raises(ValueError, match="heads="):
        build_arguments({"model": tiny_backbone, "output_dir": "x", "heads": {"head_dim": 8}}, kind=StockArguments)


def test_padding_changes_nothing_in_the_small_head() -> None:
    torch.manual_seed(0)
    head = MaxPoolHead(16, 3).eval()
    states = tuple(torch.randn(1, 5, 16) for _ in range(3))
    padded = tuple(torch.cat([values, torch.full((1, 2, 16), 9.0)], dim=1) for values in states)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
    torch.testing.assert_close(head(padded, mask), head(states, mask[:, :5]))


def test_embeddings_are_normalised_means_and_alone_as_together(tiny_backbone: str) -> None:
    together = embeddings(tiny_backbone, ["w10 w11", "w12", "w10 w11"])
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6) and np.array_equal(together[0], together[2])
    model = AutoModel.from_pretrained(tiny_backbone).eval()
    with torch.no_grad():
        mean = model(input_ids=torch.tensor([[3, 12, 4]])).last_hidden_state.mean(1)
    assert np.allclose(together[1], torch.nn.functional.normalize(mean, dim=-1).numpy()[0], atol=1e-5)


def test_draws_are_fixed_and_balanced(places: Path) -> None:
    settings = {**write_texts(places), "seed": 1, "draw": {"per_class": 2, "test_rows": 5, "words": 3}}
    first = drawn(settings, places / "a")
    again, other = drawn(settings, places / "b"), drawn({**settings, "seed": 2}, places / "c")
    rows = {part: [json.loads(line) for line in Path(first[part]).read_text().splitlines()] for part in SIZES}
    for part in SIZES:
        assert Path(first[part]).read_bytes() == Path(again[part]).read_bytes()
        assert not Path(first[part]).is_absolute()
    assert Path(first["train"]).read_bytes() != Path(other["train"]).read_bytes()
    assert Path(first["test"]).read_bytes() == Path(other["test"]).read_bytes()
    assert sorted(row["label"] for row in rows["train"]) == sorted(row["label"] for row in rows["validation"])
    assert len(rows["train"]) == 6 and len(rows["test"]) == 5 and "draw" not in first
    assert max(len(row["text"].split()) for row in rows["test"]) == 3


def test_further_test_sets_are_drawn(places: Path) -> None:
    paths = write_texts(places)
    settings = {**paths, "seed": 0, "test_files": {"far": paths["train"]}, "draw": {"train_rows": 6, "shift_rows": 4}}
    files = drawn(settings, places / "a")
    far = Path(files["test_files"]["far"]).read_text().splitlines()
    every = [json.loads(line) for line in Path(paths["train"]).read_text().splitlines()]
    assert [json.loads(line) for line in far] == [row for row in every if json.dumps(row) in far] and len(far) == 4
    assert len(Path(files["train"]).read_text().splitlines()) == 6
    assert len(Path(files["test"]).read_text().splitlines()) == SIZES["test"]


def test_documents_are_drawn_whole(places: Path) -> None:
    documents = [f"-DOCSTART- O\n\nword{i} O\n\nlast{i} O\n\n" for i in range(9)]
    (places / "train.txt").write_text("".join(documents))
    settings = {"train": "train.txt", "validation": "x", "test": "y", "draw": {"train_documents": 4}}
    files = drawn(settings, places / "a")
    text = Path(files["train"]).read_text()
    kept = [document for document in documents if document in text]
    assert text == "".join(kept) and len(kept) == 4
    assert (files["validation"], files["test"]) == ("x", "y")


@pytest.mark.parametrize(("draw", "message"), [({"per_class": 7}, "needs 14"), ({"rows": 3}, "draw has rows")])
def test_draws_that_cannot_be_made(places: Path, draw: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn({**write_texts(places), "seed": 0, "draw": draw}, places / "a")


def test_the_stock_tagger_is_taught_one_label_a_word(places: Path) -> None:
    words = [("EU", "B-ORG"), ("well-known", "B-MISC"), ("w10abc", "I-MISC"), ("w3", "O"), ("U.N.", "B-ORG")]
    text = "".join(f"{word} {tag}\n" for word, tag in words)
    (places / "tags.txt").write_text(f"{text}\n{text}", encoding="utf-8")
    settings = {"model": "x", "output_dir": "y", **dict.fromkeys(SIZES, "tags.txt")}
    arguments = build_arguments(settings, kind=StockNerArguments)
    task = task_of(arguments)
    data = task.load()
    ours = TokenClassification(arguments).encode(data, tiny_wordpiece())["train"]
    tokens = task.encode(data, tiny_wordpiece())["train"]
    for row, labels in enumerate(tokens["labels"][:]):
        taught = [data.label_names[label] for label in labels if label != IGNORED]
        assert taught == [tag for _, tag in words]
        assert sum(label != IGNORED for label in ours["labels"][row]) > len(words)
    places_of_words = [place for row in tokens["places"][:] for place in row if place >= 0]
    assert places_of_words == list(range(2 * len(words)))
