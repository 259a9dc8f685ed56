"""LoRA on a backbone whose weights are kept in few bits (QLoRA)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import text_arguments
from tiny_models import BACKBONES, tiny_tokenizer
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline

from hf_selfattn import SelfAttnForSequenceClassification, run
from hf_selfattn.adapters import add_lora, merge_adapters
from hf_selfattn.hub.saving import save_adapter

bitsandbytes = pytest.importorskip("bitsandbytes")
LAYERS = {"int8": bitsandbytes.nn.Linear8bitLt, "nf4": bitsandbytes.nn.Linear4bit}
INPUTS = {"input_ids": torch.tensor([[2, 30, 31, 5, 3]])}
HEADS = {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 8, "subsequence_stride": 4}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = copy.deepcopy(BACKBONES["bert"])
    config.update({"hidden_size": 64, "intermediate_size": 128})  # bitsandbytes on CPU takes multiples of 64
    AutoModel.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def settings(backbone: str, folder: Path, **changes: Any) -> dict[str, Any]:
    rows = ["text,label"] + [f"w{30 + i % 40} w{31 + i % 7} w5,{'up' if i % 2 else 'down'}" for i in range(24)]
    (folder / "train.csv").write_text("\n".join(rows), encoding="utf-8")
    return {
        "model": backbone,
        "train": str(folder / "train.csv"),
        "output_dir": str(folder / "run"),
        "save": "adapter",
        "heads": HEADS,
        "baseline": False,
        "num_train_epochs": 2,
        "learning_rate": 0.01,
        "bf16": False,
        **changes,
    }


def test_the_recipe_trains_an_adapter_on_8_bits(backbone: str, tmp_path: Path) -> None:
    results = run(text_arguments(settings(backbone, tmp_path, quantization="int8")))
    place = {"backbone_name_or_path": backbone}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run", **place)
    assert isinstance(model.model.backbone.encoder.layer[0].attention.self.key.get_base_layer(), LAYERS["int8"])
    assert model.config.backbone_quantization == "int8" and model.config.label2id == {"down": 0, "up": 1}
    assert not hasattr(model.config.backbone_config, "quantization_config")
    answer = pipeline("text-classification", model=model, tokenizer=str(tmp_path / "run"))("w30 w31 w5")
    assert answer[0]["label"] in ("up", "down")
    assert results["training"]["steps"] == 4

    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run", backbone_quantization="none", **place)
    assert type(plain.model.backbone.encoder.layer[0].attention.self.key.get_base_layer()) is torch.nn.Linear
    with torch.no_grad():
        torch.testing.assert_close(plain(**INPUTS).logits, model(**INPUTS).logits, atol=0.1, rtol=0)
    merge_adapters(plain).save_pretrained(tmp_path / "whole")
    assert (tmp_path / "whole/model.safetensors").is_file()


@pytest.mark.parametrize("kind", LAYERS)
def test_answers_are_near_those_of_full_precision(backbone: str, kind: str) -> None:
    torch.manual_seed(0)
    model = SelfAttnForSequenceClassification.from_backbone(backbone, **HEADS)
    torch.manual_seed(0)
    few = SelfAttnForSequenceClassification.from_backbone(backbone, backbone_quantization=kind, **HEADS)
    assert isinstance(few.model.backbone.encoder.layer[0].attention.self.key, LAYERS[kind])
    assert few.config.backbone_hash == model.config.backbone_hash
    with torch.no_grad():
        torch.testing.assert_close(few(**INPUTS).logits, model(**INPUTS).logits, atol=0.1, rtol=0)


def test_adapters_and_heads_learn_and_come_back(backbone: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SelfAttnForSequenceClassification.from_backbone(backbone, backbone_quantization="int8", **HEADS)
    adapted = add_lora(model, "SEQ_CLS", r=4).train()
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(5):
        losses.append(adapted(**INPUTS, labels=torch.tensor([1])).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.8 * losses[0]
    with torch.no_grad():
        expected = adapted.eval()(**INPUTS).logits
        save_adapter(adapted, tiny_tokenizer(), tmp_path, backbone_name_or_path=backbone)
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path, backbone_name_or_path=backbone)
        torch.testing.assert_close(again(**INPUTS).logits, expected, atol=1e-6, rtol=0)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="4 bits train on an accelerator")
def test_4_bits_do_not_train_on_a_cpu(backbone: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'nf4' trains on an accelerator only"):
        run(text_arguments(settings(backbone, tmp_path, quantization="nf4")))


def test_a_quantised_model_is_not_merged_nor_saved_whole(backbone: str, tmp_path: Path) -> None:
    model = SelfAttnForSequenceClassification.from_backbone(backbone, backbone_quantization="int8", **HEADS)
    with pytest.raises(ValueError, match="quantised .int8.*Save an adapter"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be merged into it without loss"):
        merge_adapters(add_lora(model, "SEQ_CLS", r=4))
    assert list(tmp_path.iterdir()) == []


def test_quantisation_asks_for_an_adapter() -> None:
    given = {"model": "m", "output_dir": "o", "quantization": "nf4"}
    with pytest.raises(ValueError, match="quantization='nf4' needs save='adapter' and tuning='lora'"):
        text_arguments(given)
    with pytest.raises(ValueError, match="save='adapter' needs tuning='lora'"):
        text_arguments({**given, "save": "adapter", "tuning": "probe"})


def test_a_missing_package_is_named(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ImportError("no bitsandbytes")

    monkeypatch.setattr("transformers.quantizers.quantizer_bnb_4bit.Bnb4BitHfQuantizer.validate_environment", refuse)
    with pytest.raises(ValueError, match="does not work here .no bitsandbytes.*pip install bitsandbytes"):
        SelfAttnForSequenceClassification.from_backbone(backbone, backbone_quantization="nf4", **HEADS)
    SelfAttnForSequenceClassification.from_backbone(backbone, **HEADS)
