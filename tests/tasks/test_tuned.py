"""`model=` a folder that was tuned before: training goes on from it, and what starts fresh is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import settings, text_arguments
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_selfattn import NerArguments, build_arguments, run
from hf_selfattn.modeling.configuration_selfattn import SelfAttnConfig
from hf_selfattn.modeling.modeling_selfattn import SelfAttnForSequenceClassification, SelfAttnForTokenClassification
from hf_selfattn.tasks.backbone import copy_answers, tuned_model

HEADS = {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 8, "subsequence_stride": 4}


def go_on(folder: Path, given: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A second run of few steps that begins with the result of the first."""
    second = {**given, "model": str(folder / "run"), "output_dir": str(folder / "second"), "heads": {}, **changes}
    return run(text_arguments(second))


def labels(*names: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


@pytest.mark.parametrize("tuning", ["full", "lora", "probe"])
def test_training_goes_on_from_a_tuned_model(
    tuning: str, tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings(tiny_backbone, tmp_path, tuning=tuning, learning_rate=1e-2, num_train_epochs=6)
    first = run(text_arguments(given))
    capsys.readouterr()
    again = go_on(tmp_path, given, learning_rate=1e-12, num_train_epochs=1)
    before, after = (results["splits"]["test"]["scores"]["accuracy"]["value"] for results in (first, again))
    assert before == after and "which was tuned before: backbone and heads are kept, and the answers for" in (
        capsys.readouterr().out
    )
    models = [AutoModelForSequenceClassification.from_pretrained(tmp_path / name) for name in ("run", "second")]
    assert sum(value.numel() for value in models[0].parameters()) == sum(v.numel() for v in models[1].parameters())
    assert models[1].config.backbone_config.model_type == "bert" and models[1].config.backbone_hash is None


def test_an_adapter_is_tuned_further(tiny_backbone: str, tmp_path: Path) -> None:
    given = settings(tiny_backbone, tmp_path, save="adapter", learning_rate=1e-2, num_train_epochs=4)
    first = run(text_arguments(given))
    changes = {"backbone_name_or_path": tiny_backbone, "save": "merged", "learning_rate": 1e-12}
    again = go_on(tmp_path, given, **changes, num_train_epochs=1)
    scores = [results["splits"]["test"]["scores"]["accuracy"]["value"] for results in (first, again)]
    assert scores[0] == scores[1]


def test_a_checkpoint_inside_of_a_run_is_named(tiny_backbone: str, tmp_path: Path) -> None:
    given = settings(tiny_backbone, tmp_path, num_train_epochs=1)
    run(text_arguments(given))
    checkpoint = next((tmp_path / "run").glob("checkpoint-*"))
    with pytest.raises(ValueError, match="is a checkpoint of PEFT inside of a run"):
        go_on(tmp_path, given, model=str(checkpoint))


@pytest.mark.parametrize("pooling", ["class_query", "mean"])
def test_labels_of_the_same_name_keep_their_answers(pooling: str, tiny_backbone: str, tmp_path: Path) -> None:
    build = SelfAttnForSequenceClassification.from_backbone
    model = build(tiny_backbone, pooling=pooling, **HEADS, **labels("a", "b", "c"), temperature=3.0)
    for value in model.classifier.parameters():
        torch.nn.init.normal_(value, std=5)
    model.save_pretrained(tmp_path / "tuned")
    arguments = text_arguments({"model": str(tmp_path / "tuned"), "output_dir": "x"})
    found, said = tuned_model(SelfAttnForSequenceClassification, arguments, labels("d", "c", "a"))
    assert "the answers for c, a; d start fresh" in said and found.config.temperature == 1.0
    model.config.temperature = 1.0
    ids = torch.tensor([[2, 10, 11, 12, 3]])
    with torch.no_grad():
        expected, logits = model.eval()(input_ids=ids).logits, found.eval()(input_ids=ids).logits
    torch.testing.assert_close(logits[:, [1, 2]], expected[:, [2, 0]])


def test_transitions_between_tags_of_the_same_name_are_kept(wordpiece: str) -> None:
    build = SelfAttnForTokenClassification.from_backbone
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
    before, after = (build(wordpiece, decoding="crf", **HEADS, **labels(*given)) for given in names)
    torch.nn.init.normal_(before.crf.transition_scores)
    fresh = after.crf.transition_scores.clone()
    copy_answers(before, after, *map(list, names))
    for i, row in enumerate(names[1]):
        for j, column in enumerate(names[1]):
            known = row in names[0] and column in names[0]
            expected = (
                before.crf.transition_scores[names[0].index(row), names[0].index(column)] if known else fresh[i, j]
            )
            assert after.crf.transition_scores[i, j] == expected


def test_another_task_keeps_backbone_and_heads(wordpiece: str, tmp_path: Path) -> None:
    SelfAttnForSequenceClassification.from_backbone(wordpiece, **HEADS, num_labels=2).save_pretrained(tmp_path / "a")
    AutoTokenizer.from_pretrained(wordpiece).save_pretrained(tmp_path / "a")
    arguments = build_arguments({"model": str(tmp_path / "a"), "output_dir": "x"}, NerArguments)
    model, said = tuned_model(SelfAttnForTokenClassification, arguments, labels("O", "B-PER", "I-PER"))
    assert isinstance(model, SelfAttnForTokenClassification) and "O, B-PER, I-PER start fresh" in said
    before = SelfAttnForSequenceClassification.from_pretrained(tmp_path / "a").base_model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.base_model.state_dict().items())
    assert model.continues_word.any()


def test_heads_that_are_trained_keep_their_shape(tiny_backbone: str, tmp_path: Path) -> None:
    SelfAttnForSequenceClassification.from_backbone(tiny_backbone, **HEADS).save_pretrained(tmp_path / "a")
    given = {"model": str(tmp_path / "a"), "output_dir": "x", "heads": {"num_groups": 9}}
    with pytest.raises(ValueError, match="does not fit the heads of"):
        tuned_model(SelfAttnForSequenceClassification, text_arguments(given), labels("a", "b"))
    assert SelfAttnConfig.from_pretrained(tmp_path / "a").num_groups == 4
