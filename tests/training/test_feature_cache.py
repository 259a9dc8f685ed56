"""The cache of the backbone's features: the same answers as from the text, nothing stale, nothing lost."""

from __future__ import annotations

import os
import pickle
import signal
from copy import deepcopy
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_models import WINDOW, tiny_model, tiny_text, tiny_tokenizer
from transformers import DataCollatorWithPadding

from hf_selfattn.tasks.backbone import text_inputs
from hf_selfattn.training import feature_cache as features_module
from hf_selfattn.training.feature_cache import (
    CachedFeatures,
    FeatureStore,
    feature_collator,
    keys_of,
    packed,
    portions,
)

WORDS = (4, 70, 9, 4, 33, 1)  # longer than a window, too


def tokens_of(*words: int, seed: int = 0, tokenizer: Any = None) -> Dataset:
    encoded = (tokenizer or tiny_tokenizer())([tiny_text(count, seed + i) for i, count in enumerate(words)])
    return Dataset.from_dict({**encoded, "length": [len(ids) for ids in encoded["input_ids"]]})


def cache_of(folder: Path, dtype: str = "float32", **splits: Dataset) -> CachedFeatures:
    return CachedFeatures(splits or {"train": tokens_of(*WORDS)}, text_inputs(tiny_tokenizer()), folder, dtype)


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-2), ("int8", 5e-2)], ids=["float32", "float16", "int8"]
)
@pytest.mark.parametrize(
    ("task", "options"), [("single_label", {"num_mixed_layers": 2}), ("token", {"decoding": "viterbi"})]
)
def test_cached_features_give_the_answers_of_the_text(
    tmp_path: Path, task: str, options: dict[str, Any], dtype: str, tolerance: float, padding_side: str
) -> None:
    model = tiny_model(task, **options).train()
    cache = cache_of(tmp_path, dtype)
    record = cache.prepare(model, "cpu")
    assert model.training and record["computed_rows"] == len(WORDS)
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = padding_side
    collate = feature_collator(DataCollatorWithPadding(tokenizer), 4)
    batch = collate([cache.rows["train"].remove_columns("length")[number] for number in (1, 0, 4)])
    assert batch["features"].shape[2:] == (model.config.num_mixed_layers, model.config.hidden_size)
    raw = {name: values for name, values in batch.items() if name != "features"}
    model.eval()
    with torch.no_grad():
        expected = model(**raw).logits
        broken = model.base_model.backbone
        broken.forward = lambda **_: pytest.fail("the backbone was run")
        found = model(**batch).logits
    mask = batch["attention_mask"].bool() if task == "token" else slice(None)
    torch.testing.assert_close(found[mask], expected[mask], atol=tolerance, rtol=0)
    assert dtype != "int8" or not torch.equal(found, expected)


def test_a_model_reads_the_last_of_the_layers_that_are_kept(tmp_path: Path) -> None:
    model, row = tiny_model(num_mixed_layers=2), tokens_of(70)
    mine = cache_of(tmp_path, train=row)
    more = CachedFeatures({"train": row}, text_inputs(tiny_tokenizer()), tmp_path, "float32", num_layers=3)
    assert all(cache.prepare(model, "cpu")["computed_rows"] == 1 for cache in (mine, more))
    assert model.config.num_mixed_layers == 2 and mine.store.folder != more.store.folder
    plain = DataCollatorWithPadding(tiny_tokenizer())
    batches = [
        feature_collator(plain, 2)([cache.rows["train"].remove_columns("length")[0]])["features"]
        for cache in (mine, more)
    ]
    assert torch.equal(*batches) and more.rows["train"][0]["features"].shape[1] == 3


def test_features_of_other_tokens_or_layers_are_refused() -> None:
    model = tiny_model(num_mixed_layers=2)
    ids = torch.tensor([[3, 9, 4]])
    with pytest.raises(ValueError, match=r"shape \(1, 3, 1, 32\), but .* 2 layers .* need \(1, 3, 2, 32\)"):
        model(input_ids=ids, features=torch.zeros(1, 3, 1, 32))


def test_eight_bits_are_off_by_half_a_step_at_most_and_other_types_say_what_they_cannot_hold() -> None:
    features = torch.randn(50, 2, 16) * torch.logspace(-3, 3, 50)[:, None, None]
    stored = packed(features, "int8")
    read = stored["values"] * stored["scales"][..., None]
    greatest = features.abs().amax(dim=-1, keepdim=True)
    assert ((read - features).abs() <= greatest / 253.9).all()
    assert packed(torch.zeros(1, 1, 4), "int8")["values"].eq(0).all()
    with pytest.raises(ValueError, match="not finite in feature_dtype=float16: the greatest magnitude is 1e\\+05"):
        packed(torch.full((1, 1, 4), 1e5), "float16")
    with pytest.raises(ValueError, match="the backbone is broken"):
        packed(torch.full((1, 1, 4), float("nan")), "int8")


def test_what_is_there_is_not_computed_again_and_equal_rows_are_stored_once(tmp_path: Path) -> None:
    model, train = tiny_model(), tokens_of(*WORDS)
    more = tokens_of(70, 5, seed=1)  # its first row is the second of train
    assert cache_of(tmp_path, train=train).prepare(model, "cpu")["computed_rows"] == len(WORDS)
    both = cache_of(tmp_path, train=train.select([5, 1, 1]), validation=more)
    record = both.prepare(model, "cpu")
    assert record["rows"] == 5 and record["tokens"] == 3 + 72 * 3 + 7
    assert record["computed_rows"] == 1 and record["written_bytes"] == 7 * 32 * 4
    first, again = both.rows["train"][1]["features"], both.rows["validation"][0]["features"]
    assert torch.equal(first, again) and len(first) == 72
    assert len(both.rows["validation"][1]["features"]) == 7


def changed_backbone() -> Any:
    model = tiny_model()
    with torch.no_grad():
        model.base_model.backbone.embeddings.word_embeddings.weight[50, 3] += 1e-3
    return model


@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        (changed_backbone, "float32"),
        (lambda: tiny_model(num_mixed_layers=2), "float32"),
        (lambda: tiny_model(subsequence_length=WINDOW - 4), "float32"),
        (lambda: tiny_model(subsequence_stride=2), "float32"),
        (lambda: tiny_model(suffix_token_ids=[]), "float32"),
        (lambda: tiny_model().double(), "float32"),
        (tiny_model, "float16"),
    ],
    ids=["weights", "layers", "window", "stride", "frame", "precision", "stored type"],
)
def test_what_changed_never_reads_the_old_features(tmp_path: Path, model: Any, dtype: str) -> None:
    cache_of(tmp_path).prepare(tiny_model(), "cpu")
    assert cache_of(tmp_path).prepare(tiny_model(), "cpu")["computed_rows"] == 0
    assert cache_of(tmp_path, dtype).prepare(model(), "cpu")["computed_rows"] == len(WORDS)


def test_other_text_segments_or_tokenizer_never_read_the_old_features(tmp_path: Path) -> None:
    model, train = tiny_model(), tokens_of(*WORDS)
    cache_of(tmp_path, train=train).prepare(model, "cpu")
    rows = train.to_list()
    rows[0]["input_ids"][2] += 1
    rows[2]["token_type_ids"][3] = 1
    assert cache_of(tmp_path, train=Dataset.from_list(rows)).prepare(model, "cpu")["computed_rows"] == 2
    tokenizer = tiny_tokenizer()
    tokenizer(["w5 w6 w7"], truncation=True, max_length=4, padding=True)  # how it was called last says nothing
    same = CachedFeatures({"train": train}, text_inputs(tokenizer), tmp_path, "float32")
    assert same.prepare(model, "cpu")["computed_rows"] == 0
    tokenizer.add_tokens(["w200"])
    other = CachedFeatures({"train": train}, text_inputs(tokenizer), tmp_path, "float32")
    assert other.prepare(model, "cpu")["computed_rows"] == len(WORDS)


def test_the_hash_in_the_configuration_is_that_of_the_backbone_that_was_opened(tmp_path: Path) -> None:
    """`resize_token_embeddings` takes the hash away; then the weights themselves are hashed."""
    model = tiny_model()
    model.config.backbone_hash = "of the backbone"
    cache_of(tmp_path).prepare(model, "cpu")
    model.resize_token_embeddings(120)
    assert cache_of(tmp_path).prepare(model, "cpu")["computed_rows"] == len(WORDS)


def killed_after(shards: int, folder: Path) -> None:
    """Compute features and die in the middle of a shard, once so many are whole."""
    replace = Path.replace

    def until(path: Path, target: Path) -> Path:
        if len(list(folder.rglob("*.safetensors"))) == shards:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(path, target)

    torch.set_num_threads(1)
    Path.replace = until  # type: ignore[assignment,method-assign]
    cache_of(folder).prepare(tiny_model(), "cpu")


def test_a_cache_cut_off_in_the_middle_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "SHARD_BYTES", 10 * 32 * 4)  # the 3 shortest rows, then one each
    process = get_context("fork").Process(target=killed_after, args=(2, tmp_path))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (left,) = tmp_path.rglob(".*.safetensors.*")
    (other := left.with_name(".of-another-run.safetensors.4711")).touch()
    os.utime(left, (0, 0))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(before) == 2
    cache = cache_of(tmp_path)
    record = cache.prepare(tiny_model(), "cpu")
    assert 0 < record["computed_rows"] < len(WORDS)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not left.exists() and other.exists()
    whole = cache_of(tmp_path / "whole")
    whole.prepare(tiny_model(), "cpu")
    for row, other in zip(cache.rows["train"], whole.rows["train"], strict=True):
        torch.testing.assert_close(row["features"], other["features"], atol=1e-5, rtol=0)


def test_a_shard_that_a_failing_disk_cut_is_computed_again(tmp_path: Path) -> None:
    cache_of(tmp_path).prepare(tiny_model(), "cpu")
    (shard,) = tmp_path.rglob("*.safetensors")
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    assert cache_of(tmp_path).prepare(tiny_model(), "cpu")["computed_rows"] == len(WORDS)
    assert shard.read_bytes() == content


def test_the_size_is_said_and_a_disk_too_small_is_an_error_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = sum(count + 2 for count in WORDS) * 2 * (32 + 4)
    cache = cache_of(tmp_path / "new", "int8")
    with monkeypatch.context() as patch:
        patch.setattr(features_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=size - 1))
        patch.setattr(features_module, "MEGABYTE", 1)
        with pytest.raises(
            ValueError, match=f"take {size:,} MB, and .* has {size - 1:,} MB left. Give feature_cache="
        ):
            cache.prepare(tiny_model(num_mixed_layers=2), "cpu")
        assert not (tmp_path / "new").exists()
        patch.setattr(features_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=size))
        assert cache.prepare(tiny_model(num_mixed_layers=2), "cpu")["written_bytes"] == size
    assert f"6 of 6 rows are computed, {size:,}.0 MB are written to {tmp_path / 'new'}" in capsys.readouterr().out
    (shard,) = tmp_path.rglob("*.safetensors")
    assert size < shard.stat().st_size < size + 1000


def test_a_disk_that_takes_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written to .*file.* Give feature_cache=FOLDER"):
        FeatureStore(tmp_path / "file" / "below", "float16").add([b"k" * 16], [torch.zeros(1, 1, 4)])


def test_portions_and_keys() -> None:
    assert list(portions([0, 1, 2, 3], [2, 3, 9, 1], 5)) == [[0, 1], [2], [3]]
    rows = Dataset.from_dict({"input_ids": [[1, 2], [1, 2], [1, 2, 3]]})
    keys = keys_of(rows, text_inputs(tiny_tokenizer()))
    assert keys[0] == keys[1] != keys[2]


def test_rows_keep_their_features_when_columns_are_removed_and_the_data_set_is_copied(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    rows = deepcopy(cache.rows["train"]).remove_columns("length")
    cache.prepare(tiny_model(), "cpu")
    assert [len(row["features"]) for row in rows] == [count + 2 for count in WORDS]
    assert rows.with_format(None)["features"][:] == list(range(len(WORDS)))
    sent = pickle.dumps(rows)  # to a worker of a data loader, which maps the files itself
    assert len(sent) < 20_000 and cache.store.opened
    assert torch.equal(pickle.loads(sent)[1]["features"], rows[1]["features"])
