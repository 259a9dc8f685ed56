from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import (
    BACKBONES,
    CLS,
    SEP,
    TASKS,
    aligned,
    main_output,
    tiny_batch,
    tiny_model,
    tiny_tokenizer,
)
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    GPT2Config,
    PreTrainedModel,
    T5Config,
)

from hf_selfattn import SelfAttnForSequenceClassification, SelfAttnForTokenClassification, SelfAttnModel

FRAME: dict[str, Any] = {"prefix_token_ids": [CLS], "suffix_token_ids": [SEP], "subsequence_stride": 4}


def save_backbone(family: str, folder: Path, tokenizer: bool = False) -> PreTrainedModel:
    torch.manual_seed(3)
    backbone = AutoModel.from_config(BACKBONES[family]).eval()
    backbone.save_pretrained(folder)
    if tokenizer:
        tiny_tokenizer().save_pretrained(folder)
    return backbone


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize("task", ["model", "single_label", "token"])
def test_weights_are_those_of_the_backbone(family: str, task: str, tmp_path: Path) -> None:
    backbone = save_backbone(family, tmp_path)
    model = TASKS[task][0].from_backbone(str(tmp_path), **FRAME, num_labels=4)
    assert not model.training and model.config.num_labels == 4
    batch = tiny_batch([20, 9], family)
    expected = backbone(**batch).last_hidden_state
    actual = model.base_model.backbone(**batch).last_hidden_state
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)
    assert model.base_model.backbone.config is model.config.backbone_config
    assert torch.isfinite(main_output(model(**tiny_batch([70, 9], family)))).all()


def test_special_tokens_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    save_backbone("bert", tmp_path, tokenizer=True)
    config = SelfAttnModel.from_backbone(str(tmp_path), subsequence_stride=4).config
    assert (config.prefix_token_ids, config.suffix_token_ids) == ([CLS], [SEP])


@pytest.mark.parametrize("family", BACKBONES)
def test_backbone_without_tokenizer_is_refused(family: str, tmp_path: Path) -> None:
    save_backbone(family, tmp_path)
    with pytest.raises(ValueError, match="tokenizer.*Give prefix_token_ids and suffix_token_ids"):
        SelfAttnModel.from_backbone(str(tmp_path), subsequence_stride=4)


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=99),
        T5Config(d_model=32, d_ff=32, num_layers=1, num_heads=2, d_kv=16, vocab_size=99),
    ],
)
def test_decoders_are_refused(config: Any, tmp_path: Path) -> None:
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"The backbone '{config.model_type}' is a decoder.*Take an encoder"):
        SelfAttnForSequenceClassification.from_backbone(str(tmp_path), **FRAME)


def test_bert_as_a_decoder_is_refused(tmp_path: Path) -> None:
    save_backbone("bert", tmp_path)
    with pytest.raises(ValueError, match="The backbone 'bert' is a decoder"):
        SelfAttnModel.from_backbone(str(tmp_path), backbone_options={"is_decoder": True}, **FRAME)


def test_unknown_option_is_refused(tmp_path: Path) -> None:
    save_backbone("bert", tmp_path)
    with pytest.raises(ValueError, match="no field 'num_grups'. Did you mean 'num_groups'"):
        SelfAttnModel.from_backbone(str(tmp_path), **FRAME, num_grups=3)


def test_unknown_option_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no field 'blok_size'. Did you mean 'block_size'"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path, blok_size=3)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path, block_size=3).config.block_size == 3
    config = AutoConfig.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"Set \['block_size'\] in the configuration itself"):
        SelfAttnForSequenceClassification.from_pretrained(tmp_path, config=config, block_size=3)


def test_backbone_options(tmp_path: Path) -> None:
    save_backbone("bert", tmp_path)
    model = SelfAttnModel.from_backbone(str(tmp_path), backbone_options={"hidden_dropout_prob": 0.3}, **FRAME)
    assert model.backbone.embeddings.dropout.p == 0.3
    assert model.config.backbone_config.hidden_dropout_prob == 0.3


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_checkpoint_names_no_path_and_reopens_equal(dtype: torch.dtype | None, tmp_path: Path) -> None:
    save_backbone("bert", tmp_path / "backbone", tokenizer=True)
    options = {
        "attn_implementation": {"": "eager", "backbone_config": "sdpa"},
        "subsequence_stride": 4,
        "dtype": dtype,
    }
    model = SelfAttnForTokenClassification.from_backbone(str(tmp_path / "backbone"), **options)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype or torch.float32}
    model.save_pretrained(tmp_path / "first")
    reopened = SelfAttnForTokenClassification.from_pretrained(
        tmp_path / "first", attn_implementation=options["attn_implementation"]
    )
    assert {parameter.dtype for parameter in reopened.parameters()} == {dtype or torch.float32}
    batch = tiny_batch([70, 9])
    assert torch.equal(aligned(reopened)(**batch).logits, model(**batch).logits)
    reopened.save_pretrained(tmp_path / "second")
    tiny_tokenizer().save_pretrained(tmp_path / "second")
    for folder in ("first", "second"):
        files = list((tmp_path / folder).glob("*.json"))
        assert files
        for file in files:
            assert str(tmp_path) not in file.read_text() and "/tmp" not in file.read_text()
    assert json.loads((tmp_path / "second" / "config.json").read_text())["backbone_config"]["model_type"] == "bert"


def test_resized_vocabulary_is_saved(tmp_path: Path) -> None:
    model = tiny_model()
    model.resize_token_embeddings(105)
    assert model.config.vocab_size == model.config.backbone_config.vocab_size == 105
    model.save_pretrained(tmp_path)
    reopened = SelfAttnForSequenceClassification.from_pretrained(tmp_path)
    ids = torch.tensor([[CLS, 104, SEP]])
    assert torch.equal(aligned(reopened)(ids).logits, model(ids).logits)


def test_weights_that_are_missing_are_said_and_those_left_out_on_purpose_are_not(
    tiny_backbone: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    SelfAttnModel.from_backbone(tiny_backbone)
    assert "UNEXPECTED" not in caplog.text and "no weights for" not in caplog.text
    model = AutoModel.from_pretrained(tiny_backbone)
    weights = {name: value for name, value in model.state_dict().items() if "layer.1.output.dense" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    SelfAttnModel.from_backbone(str(tmp_path), prefix_token_ids=[], suffix_token_ids=[])
    assert "has no weights for ['encoder.layer.1.output.dense.bias'" in caplog.text
