"""`torch.export` and ONNX answer as the model does, at every length. One ONNX export takes some 20 s of CPU time.

So a graph with the attention heads is written of a real backbone, of a tagger (`test_export.py`) and of images; what
does not touch the heads has graphs without them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from pages import fetch, first_layers
from tiny_images import tiny_image_model, tiny_pixels
from tiny_models import TASKS, WINDOW, main_output, tiny_batch, tiny_model
from torch import Tensor

import hf_selfattn
from hf_selfattn.adapters import add_lora, merge_adapters
from hf_selfattn.hub import onnx as export

# Tokens of the rows: one token, less than a block, a window and around it, several windows.
SHAPES = ([1], [5, 3, 1], [20], [WINDOW - 1, 2], [WINDOW], [WINDOW + 1, 7, 1], [63, 64], [200, 1])
IOB = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
NO_HEADS = {"num_self_attention_heads": 0, "num_grouped_attention_heads": 0}
TAGS = {"id2label": dict(enumerate(IOB)), "label2id": {name: number for number, name in enumerate(IOB)}}


def answers(session: onnxruntime.InferenceSession, batch: dict[str, Tensor]) -> Tensor:
    names = [value.name for value in session.get_inputs()]
    types = {"token_type_ids": torch.zeros_like(batch["input_ids"])}
    return torch.from_numpy(session.run(None, {name: (types | batch)[name].numpy() for name in names})[0])


def assert_same_at_real_tokens(actual: Tensor, expected: Tensor, batch: dict[str, Tensor]) -> None:
    where = batch["attention_mask"].bool() if expected.dim() == 3 else ...
    atol = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(actual[where], expected[where], atol=atol, rtol=0)


@pytest.mark.parametrize("task", ["single_label", pytest.param("token", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["bert", pytest.param("roberta", marks=pytest.mark.slow)])
@torch.no_grad()
def test_exported_program_is_equal_at_every_length(task: str, family: str) -> None:
    model = tiny_model(task, family)
    example = tiny_batch([12, 7], family)
    program = torch.export.export(model, (), example, dynamic_shapes=export.dynamic_shapes(list(example)))
    exported = program.module()
    for lengths in SHAPES:
        for side in ("right", "left"):
            batch = tiny_batch(lengths, family, side)
            assert_same_at_real_tokens(main_output(exported(**batch)), main_output(model(**batch)), batch)
    for dimensions in program.range_constraints.values():
        assert dimensions.upper > 10**9


@pytest.mark.slow
@torch.no_grad()
def test_other_position_ids_and_no_token_types(tmp_path: Path) -> None:
    model = tiny_model("single_label", "roberta", **NO_HEADS).train()
    assert hf_selfattn.export_onnx(model, tmp_path / "model.onnx") == tmp_path / "model.onnx"
    assert model.training
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for lengths in SHAPES:
        batch = tiny_batch(lengths, "roberta")
        assert_same_at_real_tokens(answers(session, batch), model.eval()(**batch).logits, batch)


@pytest.mark.slow
@torch.no_grad()
def test_images_in_batches_of_any_size(tmp_path: Path) -> None:
    model = tiny_image_model("vit", num_mixed_layers=2, block_size=8)
    hf_selfattn.export_onnx(model, tmp_path / "model.onnx")
    for rows in (1, 3):
        batch = {"pixel_values": tiny_pixels(rows)}
        expected = model(**batch).logits
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        actual = torch.from_numpy(session.run(None, {"pixel_values": batch["pixel_values"].numpy()})[0])
        torch.testing.assert_close(actual, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_tiles_are_no_graph(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cuts no images into tiles"):
        hf_selfattn.export_onnx(tiny_image_model(tiles=True), tmp_path / "model.onnx")


@pytest.mark.parametrize("decoding", ["viterbi", "crf", "argmax"])
@torch.no_grad()
def test_decoded_scores_are_the_answer_of_the_tagger(decoding: str) -> None:
    model = tiny_model("token", decoding=decoding, **TAGS)
    model.continues_word[50:] = True
    for lengths in ([20, 9], [70, 3]):
        batch = tiny_batch(lengths)
        scores = export.model_scores(model, batch)
        decoded = export.decode_logits(model, scores.numpy(), **{name: ids.numpy() for name, ids in batch.items()})
        assert_same_at_real_tokens(decoded, model(**batch).logits, batch)


@pytest.mark.slow
@torch.no_grad()
def test_words_of_the_caller_are_an_input(tmp_path: Path) -> None:
    model = tiny_model("token", **TAGS, **NO_HEADS)
    hf_selfattn.export_onnx(model, tmp_path / "model.onnx", word_starts=True)
    session, batch = onnxruntime.InferenceSession(tmp_path / "model.onnx"), tiny_batch([40, 9])
    batch["word_starts"] = (torch.arange(40) % 3 == 0).long().expand(2, -1).contiguous()
    decoded = export.decode_logits(model, answers(session, batch), **batch)
    assert_same_at_real_tokens(decoded, model(**batch).logits, batch)
    assert (answers(session, batch) - model(**tiny_batch([40, 9])).logits).abs().max() > 0.01


@pytest.mark.slow
@torch.no_grad()
def test_features_of_two_layers() -> None:
    model = tiny_model("model", num_mixed_layers=2, num_head_layers=2, norm_type="rmsnorm")
    example = tiny_batch([12, 7])
    exported = torch.export.export(model, (), example, dynamic_shapes=export.dynamic_shapes(list(example))).module()
    for lengths in ([5, 3], [70, 9]):
        batch = tiny_batch(lengths)
        assert_same_at_real_tokens(main_output(exported(**batch)), main_output(model(**batch)), batch)


@pytest.mark.slow
@torch.no_grad()
def test_a_real_backbone_is_equal_at_every_length(tmp_path: Path) -> None:
    fetch("minilm")
    torch.manual_seed(0)
    folder = first_layers(tmp_path / "minilm")
    model = hf_selfattn.SelfAttnForSequenceClassification.from_backbone(folder, num_labels=3, fusion_init=0.3)
    hf_selfattn.export_onnx(model, tmp_path / "model.onnx")
    session, window = onnxruntime.InferenceSession(tmp_path / "model.onnx"), model.base_model.window
    for lengths in ((1,), (5, 3, 1), (63, 64), (window - 1, 2), (window,), (window + 1, 7, 1), (1300, 600)):
        batch = export.example_batch(model, lengths, word_starts=False)
        assert_same_at_real_tokens(answers(session, batch), model(**batch).logits, batch)


def test_a_graph_that_answers_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OtherAnswers:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def run(self, _: None, batch: dict[str, Any]) -> list[Any]:
            return [torch.ones(len(batch["input_ids"]), 3).numpy()]

    monkeypatch.setattr(onnxruntime, "InferenceSession", OtherAnswers)
    with pytest.raises(ValueError, match=r"answers differently from the model: for rows of \[5\] tokens"):
        export.compare_with_onnxruntime(tiny_model(), tmp_path / "model.onnx", word_starts=False)


@pytest.mark.parametrize("task", TASKS)
def test_the_example_fits_the_model(task: str) -> None:
    model = tiny_model(task)
    batch = export.example_batch(model, (9, 1, 4), word_starts=task == "token")
    assert list(batch) == ["input_ids", "attention_mask", "token_type_ids", *["word_starts"] * (task == "token")]
    assert batch["attention_mask"].sum(dim=1).tolist() == [9, 1, 4]
    assert torch.isfinite(main_output(model(**batch))).all()


def test_what_cannot_be_exported_is_said() -> None:
    path = "nowhere/model.onnx"
    adapted = add_lora(tiny_model(), "SEQ_CLS", r=2)
    for model in (adapted, adapted.get_base_model()):
        with pytest.raises(ValueError, match="adapters that are not merged.*merge_adapters"):
            hf_selfattn.export_onnx(model, path)
    export.refuse_unexportable(merge_adapters(adapted), word_starts=False)
    with pytest.raises(ValueError, match="BertModel is no model of this package"):
        hf_selfattn.export_onnx(tiny_model().model.backbone, path)
    with pytest.raises(ValueError, match="torch.bfloat16. Export float32"):
        hf_selfattn.export_onnx(tiny_model().bfloat16(), path)
    with pytest.raises(ValueError, match="word_starts=True is for a token classifier"):
        hf_selfattn.export_onnx(tiny_model(), path, word_starts=True)
    quantised = tiny_model()
    quantised.config.backbone_quantization = "int8"
    with pytest.raises(ValueError, match="quantised .int8.*backbone_quantization='none'"):
        hf_selfattn.export_onnx(quantised, path)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"onnx and onnxscript: pip install onnx onnxscript"):
        hf_selfattn.export_onnx(tiny_model(), "model.onnx")


def test_other_names_of_the_package_are_unknown() -> None:
    assert hf_selfattn.export_onnx is export.export_onnx
    with pytest.raises(AttributeError, match="no attribute 'export_tflite'"):
        _ = hf_selfattn.export_tflite
