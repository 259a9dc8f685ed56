from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from tiny_models import (
    BACKBONES,
    CLS,
    HIDDEN_SIZE,
    SEP,
    VOCAB_SIZE,
    WINDOW,
    tiny_batch,
    tiny_config,
    tiny_labels,
    tiny_model,
)
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    CLIPConfig,
    Wav2Vec2Config,
)
from transformers.utils import logging

from hf_selfattn import SelfAttnConfig, SelfAttnModel
from hf_selfattn.modeling.configuration_selfattn import AUTO_MAP, GONE, backbone_window


@pytest.mark.parametrize("family", BACKBONES)
def test_sizes_are_those_of_the_backbone(family: str) -> None:
    config = tiny_config(family)
    assert config.hidden_size == HIDDEN_SIZE
    assert (config.num_hidden_layers, config.num_attention_heads) == (2, 4)
    assert config.vocab_size == VOCAB_SIZE
    assert config.pad_token_id == BACKBONES[family].pad_token_id
    assert config.subsequence_length == backbone_window(BACKBONES[family]) == WINDOW


@pytest.mark.parametrize("family", BACKBONES)
def test_saved_configuration_is_the_same(family: str, tmp_path: Path) -> None:
    config = tiny_config(
        family, num_groups=7, pooling="mean", id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}
    )
    config.save_pretrained(tmp_path)
    reopened = AutoConfig.from_pretrained(tmp_path)
    assert type(reopened) is SelfAttnConfig
    assert type(reopened.backbone_config) is type(BACKBONES[family])
    reopened.name_or_path = ""
    assert reopened.to_dict() == config.to_dict()
    assert reopened.id2label == {0: "no", 1: "yes"}
    assert reopened.auto_map == AUTO_MAP


def test_backbone_can_be_a_dictionary_or_left_out() -> None:
    as_dictionary = SelfAttnConfig(backbone_config=BACKBONES["bert"].to_dict(), subsequence_stride=4)
    assert as_dictionary.backbone_config.to_dict() == BACKBONES["bert"].to_dict()
    assert type(SelfAttnConfig().backbone_config) is BertConfig


@pytest.mark.parametrize(("length", "stride"), [(None, 4), (16, 2), (7, 0)])
def test_windows_share_an_eighth_by_default(length: int | None, stride: int) -> None:
    assert tiny_config(subsequence_length=length, subsequence_stride=None).subsequence_stride == stride


def test_attention_implementation_of_each_part() -> None:
    config = tiny_config(attn_implementation={"": "eager", "backbone_config": "sdpa"})
    assert config._attn_implementation == "eager"
    assert config.backbone_config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blok_size": 3}, "no field 'blok_size'. Did you mean 'block_size'"),
        (
            {"num_sortings": 2},
            "num_sortings is gone from .*: tokens are sorted once; .* larger block_size",
        ),
        (
            {"token_keep_rate": 0.5},
            "token_keep_rate is gone from .*: every token is read; .*sample_tokens",
        ),
        ({"zzz": 3}, "no field 'zzz'. Valid keys: .*attention_window"),
        ({"head_dim": 12}, "head_dim=12 is not divisible by 8.* Take 16"),
        ({"head_dim": 3}, "head_dim=3 is not divisible by 8.* Take 8"),
        ({"block_size": 0}, "block_size=0 is too small: it must be at least 1"),
        ({"num_self_attention_heads": -1}, "num_self_attention_heads=-1 is too small: it must be at least 0"),
        ({"num_head_layers": 0}, "num_head_layers=0 is too small"),
        ({"attention_window": 0}, "attention_window=0 is too small"),
        ({"num_mixed_layers": 4}, "num_mixed_layers=4 is more than the backbone has: 2 hidden layers"),
        ({"subsequence_length": 33}, r"subsequence_length=33 is longer than what the backbone can read \(32 tokens\)"),
        ({"subsequence_stride": 30}, "subsequence_stride=30 leaves no step.*stride from 0 to 29"),
        ({"subsequence_stride": -1}, "subsequence_stride=-1 leaves no step"),
        ({"prefix_token_ids": [99]}, "prefix_token_ids has 99, but the backbone's ids are from 0 to below 99"),
        ({"head_dropout": 1.0}, "head_dropout=1.0 must be at least 0 and below 1"),
        ({"classifier_dropout": -0.1}, "classifier_dropout=-0.1 must be at least 0"),
        ({"problem_type": "classification"}, "problem_type='classification' must be None or one of regression"),
    ],
)
def test_errors_name_the_field_and_the_mend(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**options)


def test_fields_that_are_gone_are_no_fields() -> None:
    assert not GONE.keys() & SelfAttnConfig().to_dict().keys()


@pytest.mark.parametrize(
    "options", [{"fusion": "channel"}, {"word_pooling": "attention"}, {"block_size": "8"}, {"prefix_token_ids": ["a"]}]
)
def test_types_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(options))):
        tiny_config(**options)


def test_types_are_checked_on_assignment() -> None:
    config = tiny_config()
    with pytest.raises(StrictDataclassFieldValidationError, match="num_groups"):
        config.num_groups = "many"


def test_backbone_without_a_width_is_refused() -> None:
    with pytest.raises(ValueError, match="The backbone 'clip' has no `hidden_size`"):
        SelfAttnConfig(backbone_config=CLIPConfig())


def test_backbone_dictionary_without_model_type_is_refused() -> None:
    with pytest.raises(ValueError, match="backbone_config has no `model_type`"):
        SelfAttnConfig(backbone_config={"hidden_size": 8})


def test_window_of_backbones_without_positions_is_unlimited() -> None:
    assert backbone_window(Wav2Vec2Config()) is None
    unlimited = deepcopy(BACKBONES["deberta-v2"])
    unlimited.max_position_embeddings = -1
    assert backbone_window(unlimited) is None
    assert SelfAttnConfig(backbone_config=unlimited).subsequence_length == 512


def test_special_tokens_are_saved(tmp_path: Path) -> None:
    tiny_config().save_pretrained(tmp_path)
    reopened = SelfAttnConfig.from_pretrained(tmp_path)
    assert (reopened.prefix_token_ids, reopened.suffix_token_ids) == ([CLS], [SEP])


def test_what_a_later_version_wrote_is_kept_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model(num_labels=3)
    model.config.my_note, model.config.tie_word_embeddings, model.config.batch_norm_eps = "x", False, 1.0
    model.save_pretrained(tmp_path)
    logging.get_logger("hf_selfattn").propagate = logging.get_logger("transformers").propagate = True
    with caplog.at_level("WARNING"):
        opened = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert "does not know ['batch_norm_eps', 'my_note', 'tie_word_embeddings']" in caplog.text
    opened.save_pretrained(tmp_path / "again")
    config = AutoConfig.from_pretrained(tmp_path / "again")
    assert (config.my_note, config.tie_word_embeddings, config.batch_norm_eps) == ("x", False, 1.0)
    with pytest.raises(ValueError, match="Did you mean 'num_groups'"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path, num_gruops=3)
    text = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**text, "num_sortings": 2}))
    with pytest.raises(ValueError, match="num_sortings is gone"):
        AutoConfig.from_pretrained(tmp_path)


def test_sizes_reach_the_backbone(tmp_path: Path) -> None:
    config = tiny_config()
    config.vocab_size, config.num_hidden_layers = 10, 1
    model = SelfAttnModel(config)
    assert model.get_input_embeddings().num_embeddings == 10 and len(model.backbone.encoder.layer) == 1
    narrow = SelfAttnConfig(backbone_config=deepcopy(BACKBONES["bert"]), hidden_size=16)
    assert narrow.hidden_size == narrow.backbone_config.hidden_size == 16
    tiny_model("model").save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="mismatch"):
        AutoModel.from_pretrained(tmp_path, vocab_size=10)
    opened = AutoModel.from_pretrained(tmp_path, vocab_size=10, ignore_mismatched_sizes=True)
    assert opened.get_input_embeddings().num_embeddings == opened.config.vocab_size == 10
    text = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**text, "vocab_size": 7}))
    assert AutoConfig.from_pretrained(tmp_path).vocab_size == VOCAB_SIZE, "the backbone's own is the one that counts"


OTHER_LABELS: list[dict[str, Any]] = [
    {"num_labels": 5},
    {"num_labels": 2},
    {"problem_type": "regression", "num_labels": 1},
    {"problem_type": "single_label_classification"},
    {"id2label": {0: "x", 1: "y", 2: "z"}, "label2id": {"x": 0, "y": 1, "z": 2}},
]


@pytest.mark.parametrize("options", OTHER_LABELS)
def test_other_labels_drop_thresholds_and_temperature(options: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model("multi_label", thresholds=[0.2, 0.5, 0.7], temperature=0.6)
    model.save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **options)
    for config in (AutoConfig.from_pretrained(tmp_path, **options), model.config):
        assert (config.thresholds, config.temperature) == (None, 1.0)
        assert all(getattr(config, name) == value for name, value in options.items())
    assert model(**tiny_batch([9])).logits.shape == (1, model.config.num_labels)
    same = AutoConfig.from_pretrained(tmp_path, num_labels=3, problem_type="multi_label_classification")
    assert (same.thresholds, same.temperature) == ([0.2, 0.5, 0.7], 0.6)
    given = AutoConfig.from_pretrained(tmp_path, num_labels=2, thresholds=[0.1, 0.9])
    assert given.thresholds == [0.1, 0.9]


def test_training_forgets_the_temperature() -> None:
    model, batch = tiny_model("multi_label", thresholds=[0.2, 0.5, 0.7], temperature=0.5), tiny_batch([9, 5])
    labels = tiny_labels("multi_label", batch)
    plain = tiny_model("multi_label")
    model(**batch, **labels)
    assert model.config.temperature == 0.5, "evaluation changes nothing"
    for module in (model, plain):
        module.train()
        for dropout in (part for part in module.modules() if isinstance(part, nn.Dropout)):
            dropout.p = 0.0
    assert torch.equal(model(**batch, **labels).loss, plain(**batch, **labels).loss)
    assert (model.config.temperature, model.config.thresholds) == (1.0, None)


def test_prototypes_are_made_again_from_the_meta_device() -> None:
    with torch.device("meta"):
        model = SelfAttnModel(tiny_config())
    model.to_empty(device="cpu").init_weights()
    assert {n: b.tolist() for n, b in model.named_buffers()} == {
        n: b.tolist() for n, b in SelfAttnModel(tiny_config()).named_buffers()
    }
