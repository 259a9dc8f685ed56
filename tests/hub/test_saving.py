"""A save that fails, or is killed, leaves the checkpoint that was there."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from saves import SMALL, answer, content, save, tuned
from tiny_models import aligned, tiny_batch, tiny_tokenizer
from transformers import AutoModelForTokenClassification
from warm_python import warm_python

from hf_selfattn import SelfAttnForSequenceClassification, SelfAttnForTokenClassification
from hf_selfattn.adapters import add_lora, merge_adapters
from hf_selfattn.hub.saving import sample_batch, save_adapter, save_model
from hf_selfattn.modeling.adapter_selfattn import ADAPTER_NAME

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("how", ["whole", "adapter"])
def test_a_new_save_replaces_the_earlier_one_and_nothing_else(how: str, tiny_backbone: str, tmp_path: Path) -> None:
    save(tuned(tiny_backbone, 1), tiny_backbone, tmp_path, how)
    first = answer(tmp_path, tiny_backbone, how)
    (tmp_path / "results.json").write_text("{}")
    save(tuned(tiny_backbone, 2), tiny_backbone, tmp_path, how)
    assert not torch.equal(answer(tmp_path, tiny_backbone, how), first)
    assert (tmp_path / "results.json").read_text() == "{}"
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("how", ["whole", "adapter"])
def test_of_two_kinds_the_later_one_is_there(how: str, tiny_backbone: str, tmp_path: Path) -> None:
    kinds = ["whole", "adapter"] if how == "adapter" else ["adapter", "whole"]
    for seed, kind in enumerate(kinds):
        save(tuned(tiny_backbone, seed + 1), tiny_backbone, tmp_path, kind)
    assert (tmp_path / ADAPTER_NAME).is_dir() == (how == "adapter") != (tmp_path / "model.safetensors").is_file()
    assert answer(tmp_path, tiny_backbone, how).isfinite().all()


def wrong_logits(opened: Any) -> Any:
    next(p for n, p in opened.named_parameters() if n.endswith("vote.bias") and "original" not in n).data += 1
    return opened


def wrong_temperature(opened: Any) -> Any:
    opened.config.temperature = 9.0
    return opened


def wrong_label(opened: Any) -> Any:
    opened.config.id2label = {0: "LABEL_0", 1: "x", 2: "y"}
    return opened


def not_a_number(opened: Any) -> Any:
    next(p for n, p in opened.named_parameters() if n.endswith("vote.bias") and "original" not in n).data += float(
        "nan"
    )
    return opened


@pytest.mark.parametrize("spoil", [wrong_logits, wrong_temperature, wrong_label, not_a_number])
@pytest.mark.parametrize("how", ["whole", "adapter"])
def test_a_save_that_answers_otherwise_is_an_error_and_keeps_the_earlier_one(
    how: str, spoil: Any, tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tuned(tiny_backbone, 1), tiny_backbone, tmp_path, how)
    before = content(tmp_path)
    opener = SelfAttnForSequenceClassification.from_pretrained
    monkeypatch.setattr(SelfAttnForSequenceClassification, "from_pretrained", lambda *a, **k: spoil(opener(*a, **k)))
    with pytest.raises(ValueError, match="answers differently when it is opened again"):
        save(tuned(tiny_backbone, 2), tiny_backbone, tmp_path, how)
    assert content(tmp_path) == before


def test_a_backbone_that_changed_in_training_is_noticed(tiny_backbone: str, tmp_path: Path) -> None:
    save(tuned(tiny_backbone, 1), tiny_backbone, tmp_path, "adapter")
    before = content(tmp_path)
    model = tuned(tiny_backbone, 2)
    weight = model.get_base_model().model.backbone.embeddings.word_embeddings.weight
    weight.data += 0.1 * torch.randn(weight.shape)
    with pytest.raises(ValueError, match="answers differently"):
        save(model, tiny_backbone, tmp_path, "adapter")
    with pytest.raises(ValueError, match="does not open"):
        save(tuned(tiny_backbone, 2), str(tmp_path / "moved"), tmp_path, "adapter")
    assert content(tmp_path) == before


def test_training_mode_is_left_as_it_was(tiny_backbone: str, tmp_path: Path) -> None:
    model = tuned(tiny_backbone, 1).train()
    save(model, tiny_backbone, tmp_path, "adapter")
    assert model.training and model.get_base_model().model.backbone.training


KILLED = """
import os, signal, sys
from pathlib import Path
import hf_selfattn.hub.saving as saving
from saves import save, tuned
backbone, folder, how, where = sys.argv[1:]

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if where == "writing":
    saving.compare_answers = kill
else:
    saving.put_in_place = kill
save(tuned(backbone, 2), backbone, Path(folder), how)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["writing", "before the rename"])
@pytest.mark.parametrize("how", ["whole", "adapter"])
def test_killed_in_the_middle_of_a_save(how: str, where: str, tiny_backbone: str, tmp_path: Path) -> None:
    save(tuned(tiny_backbone, 1), tiny_backbone, tmp_path, how)
    before, expected = content(tmp_path), answer(tmp_path, tiny_backbone, how)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/support")]),
    }
    command = [warm_python(), "-c", KILLED, tiny_backbone, str(tmp_path), how, where]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = {name: data for name, data in content(tmp_path).items() if not name.startswith(".saving/")}
    assert left == before
    assert torch.equal(answer(tmp_path, tiny_backbone, how), expected)
    save(tuned(tiny_backbone, 3), tiny_backbone, tmp_path, how)
    assert not (tmp_path / ".saving").exists()
    assert not torch.equal(answer(tmp_path, tiny_backbone, how), expected)


def test_the_rows_of_a_run_are_compared(tiny_backbone: str, tmp_path: Path) -> None:
    """A batch of the first rows, with what the tokenizer gives alone; it fits the model on any device."""
    model, tokenizer = tuned(tiny_backbone, 1), tiny_tokenizer()
    row = {"input_ids": [3, 7, 8, 4], "token_type_ids": [0] * 4, "attention_mask": [1] * 4, "labels": 1}

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}

    batch = sample_batch(tokenizer.model_input_names, [row] * 9, collate)  # type: ignore[arg-type]
    assert {name: values.shape for name, values in batch.items()} == dict.fromkeys(tokenizer.model_input_names, (4, 4))
    save_model(merge_adapters(model), tokenizer, tmp_path, batch=batch)
    assert answer(tmp_path, tiny_backbone, "whole").isfinite().all()


def test_a_tagger_is_compared_as_one(tiny_backbone: str, tmp_path: Path) -> None:
    model = SelfAttnForTokenClassification.from_backbone(tiny_backbone, num_labels=3, **SMALL)
    adapted = add_lora(model, "TOKEN_CLS", r=4).eval()
    save_adapter(adapted, tiny_tokenizer(), tmp_path, backbone_name_or_path=tiny_backbone)
    opened = AutoModelForTokenClassification.from_pretrained(tmp_path, backbone_name_or_path=tiny_backbone)
    batch = tiny_batch([70, 9])
    with torch.no_grad():
        assert torch.equal(aligned(opened)(**batch).logits, adapted(**batch).logits)
