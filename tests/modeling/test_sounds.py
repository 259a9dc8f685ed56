"""Models of sound on every family of backbones: features, lengths, batches, gradients, losses and checkpoints."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import BACKBONES, aligned
from tiny_sounds import (
    FAMILIES,
    HEADS,
    SOUND_BACKBONES,
    tiny_extractor,
    tiny_sound,
    tiny_sound_config,
    tiny_sound_model,
)
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    ASTFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    WhisperConfig,
    WhisperFeatureExtractor,
    pipeline,
)

from hf_selfattn import (
    SelfAttnAudioModel,
    SelfAttnConfig,
    SelfAttnForAudioClassification,
    SelfAttnForCTC,
    export_onnx,
    open_adapter,
    open_sound_extractor,
)
from hf_selfattn.adapters import add_lora, backbone_layers, tune
from hf_selfattn.hub.saving import save_adapter
from hf_selfattn.modeling.sound_windows_selfattn import masked_spans

MAIN = ("wav2vec2", "hubert", "wavlm", "sew", "ast", "whisper")
LENGTHS = (401, 5_003, 15_999, 33_333, 1)
KINDS = ("classification", "ctc")


def padded(sounds: list[Tensor], side: str) -> dict[str, Tensor]:
    """Return sounds as a batch whose padding is loud noise."""
    padding_side: Any = side
    mask = pad_sequence([torch.ones(len(sound)) for sound in sounds], batch_first=True, padding_side=padding_side)
    values = pad_sequence(sounds, batch_first=True, padding_side=padding_side)
    return {"input_values": values + 9 * torch.randn(values.shape) * (1 - mask), "attention_mask": mask.long()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_padding_and_the_rest_of_a_batch_change_nothing(family: str, kind: str) -> None:
    model = tiny_sound_model(family, kind, num_mixed_layers=2, fusion_init=3.0)
    sounds = [tiny_sound(length, seed=length) for length in LENGTHS]
    alone = [model(sound[None]).logits[0] for sound in sounds]
    assert (alone[1][0] - alone[2][0]).abs().max() > 1e-5, "sounds are told apart"
    for side in ("right", "left"):
        together = model(**padded(sounds, side)).logits
        for row, expected in zip(together, alone, strict=True):
            found = row if kind == "classification" else row[: len(expected)]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
            if kind == "ctc":
                assert not row[len(expected) :].argmax(dim=-1).any(), "padding says the blank"


@pytest.mark.parametrize("num_mixed_layers", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_read_and_every_weight_learns(family: str, num_mixed_layers: int) -> None:
    model = tiny_sound_model(family, num_mixed_layers=num_mixed_layers).train()
    sounds = padded([tiny_sound(20_001), tiny_sound(7_000)], "right")
    found = model.model.backbone_features(**sounds)
    step = model.config.inputs_to_logits_ratio
    assert step == {"ast": 480, "whisper": 320}.get(family, 160)
    lengths = [(length - (0 if family in ("ast", "whisper") else 481)) // step + 1 for length in (20_001, 7_000)]
    assert found.lengths_B is not None and found.lengths_B.tolist() == lengths
    assert {layer.shape for layer in found.layers} == {(2, lengths[0], 16)} and len(found.layers) == num_mixed_layers
    outputs = model(**sounds, labels=torch.tensor([0, 2]), output_hidden_states=True)
    assert outputs.logits.shape == (2, 3) and len(outputs.hidden_states) == num_mixed_layers
    outputs.loss.backward()
    assert not [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_features_are_those_of_the_backbone(family: str) -> None:
    model, sound = tiny_sound_model(family, num_mixed_layers=2).model, tiny_sound(9_001)
    torch.manual_seed(0)
    plain = AutoModel.from_config(SOUND_BACKBONES[family]).eval()
    weights = model.backbone.state_dict()
    plain = plain.encoder if family == "whisper" else plain
    plain.load_state_dict(weights, strict=False)
    inputs: Tensor = sound[None]
    if family == "whisper":
        options = {"feature_size": 16, "chunk_length": 1}
        inputs = WhisperFeatureExtractor(**options)(sound.numpy(), 16_000, sampling_rate=16_000)["input_features"]
    if family == "ast":
        inputs = ASTFeatureExtractor(num_mel_bins=16, max_length=100)(sound.numpy(), 16_000)["input_values"][0][None]
    outputs = plain(torch.as_tensor(np.asarray(inputs)), output_hidden_states=True)
    last, before = outputs.last_hidden_state, outputs.hidden_states[-2]
    found = model.backbone_features(sound[None])
    num_frames = found.layers[0].shape[1]
    if family == "ast":
        last, before = (layer[:, 2:].unflatten(1, (4, 33)).mean(dim=1) for layer in (last, before))
    torch.testing.assert_close(found.layers[1], last[:, :num_frames], atol=1e-4, rtol=0)
    if family == "sew":
        torch.testing.assert_close(found.layers[0][:, ::2], before, atol=1e-4, rtol=0)
    else:
        torch.testing.assert_close(found.layers[0], before[:, :num_frames], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [1, 160, 400])
@pytest.mark.parametrize("family", MAIN)
@torch.no_grad()
def test_the_shortest_and_silent_sounds_have_an_answer(family: str, samples: int, kind: str) -> None:
    model = tiny_sound_model(family, kind)
    for sound in (tiny_sound(samples), torch.zeros(samples), torch.zeros(17_003)):
        assert model(sound[None]).logits.isfinite().all()
    values = tiny_extractor(do_normalize=True)(np.zeros(samples), sampling_rate=16_000, return_tensors="pt")
    assert model(**values).logits.isfinite().all()


@pytest.mark.parametrize(
    ("problem_type", "labels", "criterion"),
    [
        ("single_label_classification", torch.tensor([0, 2]), F.cross_entropy),
        ("multi_label_classification", torch.eye(3)[:2], F.binary_cross_entropy_with_logits),
        ("regression", torch.rand(2, 3), F.mse_loss),
    ],
)
@torch.no_grad()
def test_losses_are_those_of_texts(problem_type: str, labels: Any, criterion: Any) -> None:
    model, sounds = tiny_sound_model(problem_type=problem_type), torch.stack([tiny_sound(), tiny_sound(seed=1)])
    outputs = model(sounds, labels=labels)
    torch.testing.assert_close(outputs.loss, criterion(outputs.logits, labels))
    model.config.temperature = 2.0
    torch.testing.assert_close(model(sounds).logits, outputs.logits / 2)
    assert model.predict_labels(outputs.logits).shape == ((2,) if problem_type.startswith("single") else (2, 3))


def save_backbone(family: str, folder: Path) -> str:
    """Write a random backbone of a family, of Whisper with its decoder, and return where."""
    torch.manual_seed(0)
    AutoModel.from_config(deepcopy(SOUND_BACKBONES[family])).save_pretrained(folder)
    if family == "ast":
        ASTFeatureExtractor(num_mel_bins=16, max_length=100, mean=-5.0, std=4.0).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("kind", "tuning"), [("ctc", "full"), ("classification", "lora"), ("ctc", "probe")])
@pytest.mark.parametrize("family", MAIN)  # all of them: tests/hub/test_round_trips.py
def test_every_family_trains_saves_and_opens(family: str, kind: str, tuning: str, tmp_path: Path) -> None:
    place = save_backbone(family, tmp_path / "backbone")
    model_class: Any = SelfAttnForAudioClassification if kind == "classification" else SelfAttnForCTC
    options = {"num_labels": 3} if kind == "classification" else {"vocab_size": 6, "pad_token_id": 0}
    labels = torch.tensor([0, 1, 2]) if kind == "classification" else torch.tensor([[2, 3], [4, 5], [1, -100]])
    model = model_class.from_backbone(place, num_mixed_layers=2, **HEADS, **options)
    tuned = tune(model, tuning, **({"r": 2} if tuning == "lora" else {})).train()
    before = {name: value.clone() for name, value in model.base_model.backbone.state_dict().items()}
    optimizer = torch.optim.Adam([weight for weight in tuned.parameters() if weight.requires_grad], lr=1e-2)
    batch = padded([tiny_sound(4_001), tiny_sound(3_003), tiny_sound(17_000)], "right")
    for _ in range(3):
        optimizer.zero_grad()
        tuned(**batch, labels=labels).loss.backward()
        optimizer.step()
    changed = [
        name
        for name, value in model.base_model.backbone.state_dict().items()
        if "lora" not in name and not torch.equal(value, before.get(name.replace(".base_layer", ""), value))
    ]
    assert bool(changed) == (tuning == "full")
    tuned.eval()
    with torch.no_grad():
        expected = tuned(**batch).logits
    folder, options = tmp_path / "model", {}
    if tuning == "lora":
        options = {"backbone_name_or_path": place}
        save_adapter(tuned, tiny_extractor(), folder, batch=batch, **options)
        assert open_adapter(folder, **options).peft_config
    else:
        model.save_pretrained(folder)
    auto_class = AutoModelForAudioClassification if kind == "classification" else AutoModelForCTC
    reopened = aligned(auto_class.from_pretrained(folder, **options))
    with torch.no_grad():
        assert torch.equal(reopened(**batch).logits, expected)
    assert tuning == "lora" or type(AutoModel.from_pretrained(folder)) is SelfAttnAudioModel
    assert len(list(folder.glob("*.py"))) <= 19


@pytest.mark.parametrize("family", MAIN)
def test_lora_stands_on_every_layer_that_runs(family: str) -> None:
    model = tiny_sound_model(family).train()
    adapted = add_lora(model, r=2)
    assert len(backbone_layers(model)) == {"wavlm": 7, "sew": 14, "ast": 12, "whisper": 12}.get(family, 13)
    adapted(tiny_sound()[None], labels=torch.tensor([0])).loss.backward()
    idle = [name for name, weight in adapted.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not idle and any("lora" in name for name, weight in adapted.named_parameters() if weight.requires_grad)


def test_of_whisper_the_encoder_is_taken(tmp_path: Path) -> None:
    place = save_backbone("whisper", tmp_path)
    whole = AutoModel.from_pretrained(place)
    model = SelfAttnForAudioClassification.from_backbone(place, **HEADS)
    weights = model.base_model.backbone.state_dict()
    assert weights.keys() == whole.encoder.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in whole.encoder.state_dict().items())
    assert model.config.subsequence_length == 16_000 and model.config.hidden_size == 16


def test_ast_is_given_the_scale_that_it_was_trained_with(tmp_path: Path) -> None:
    place = save_backbone("ast", tmp_path)
    config = SelfAttnForAudioClassification.from_backbone(place, **HEADS).config
    assert (config.spectrogram_mean, config.spectrogram_std) == (-5.0, 4.0)
    config = SelfAttnForAudioClassification.from_backbone(place, spectrogram_mean=-6.0, **HEADS).config
    assert (config.spectrogram_mean, config.spectrogram_std) == (-6.0, SelfAttnConfig().spectrogram_std)


@torch.no_grad()
def test_features_of_an_earlier_run_are_the_features() -> None:
    model = tiny_sound_model("hubert", "ctc", num_mixed_layers=2)
    sounds = padded([tiny_sound(length, seed=length) for length in LENGTHS], "right")
    found = model.model.backbone_features(**sounds)
    kept, real = torch.stack(found.layers, dim=2), found.real_positions()
    torch.testing.assert_close(model(features=kept, feature_mask=real).logits, model(**sounds).logits)


@pytest.mark.parametrize("family", ["wav2vec2", "whisper"])
def test_masks_of_specaugment_are_for_training_alone(family: str) -> None:
    options = {"apply_spec_augment": True, "mask_time_prob": 0.5, "mask_time_length": 2, "mask_feature_prob": 0.5}
    without_dropout = dict.fromkeys(
        ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0
    )
    config = tiny_sound_config(family)
    for name, value in {
        **options,
        **(without_dropout if family == "wav2vec2" else {}),
        "mask_feature_length": 2,
    }.items():
        setattr(config.backbone_config, name, value)
    model, sound = SelfAttnAudioModel(config).train(), tiny_sound(9_000)[None]
    first, second = (model(sound).last_hidden_state for _ in range(2))
    assert not torch.equal(first, second)
    first.sum().backward()
    assert family == "whisper" or model.backbone.masked_spec_embed.grad is not None
    model.eval()
    assert torch.equal(model(sound).last_hidden_state, model(sound).last_hidden_state)
    model.backbone.requires_grad_(False)
    model.train()
    assert torch.equal(model(sound).last_hidden_state, model(sound).last_hidden_state), "frozen, it is read as it is"
    buffers = dict(tiny_sound_model().model.backbone.named_buffers())
    assert "masked_spec_embed" in buffers, "it takes no part where nothing is masked"


def test_masked_spans_are_zero() -> None:
    config = WhisperConfig(mask_time_prob=0.2, mask_time_length=5, mask_feature_prob=0.5, mask_feature_length=2)
    found = masked_spans(torch.ones(2, 16, 100), config)
    is_frame, is_band = (found == 0).all(dim=1), (found == 0).all(dim=2)
    assert torch.equal(found == 0, is_frame[:, None] | is_band[:, :, None])
    assert (is_frame.sum(dim=1) >= 5).all() and (is_band.sum(dim=1) >= 2).all() and (found == 1).any()


def test_a_pipeline_classifies_with_the_extractor_beside_the_model(tmp_path: Path) -> None:
    names = {0: "bell", 1: "drum", 2: "horn"}
    model, sound = tiny_sound_model("whisper", id2label=names, temperature=2.0), tiny_sound(70_001)
    model.save_pretrained(tmp_path)
    tiny_extractor().save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(sound[None]).logits.softmax(-1)[0]
    answers = pipeline("audio-classification", model=str(tmp_path))(sound.numpy())
    scores = {answer["label"]: answer["score"] for answer in answers}
    assert scores == {name: pytest.approx(float(expected[number]), abs=1e-6) for number, name in names.items()}


def test_the_extractor_that_is_saved_cuts_nothing(tmp_path: Path) -> None:
    WhisperFeatureExtractor().save_pretrained(tmp_path)
    found, long = open_sound_extractor(str(tmp_path)), tiny_sound(40 * 16_000).numpy()
    values = found([long, long[:9]], sampling_rate=16_000, padding=True, return_tensors="pt")
    assert torch.equal(values["input_values"][0], torch.from_numpy(long)) and not found.do_normalize
    assert values["attention_mask"].sum(dim=1).tolist() == [len(long), 9]
    tiny_extractor(do_normalize=True, return_attention_mask=False).save_pretrained(tmp_path)
    assert open_sound_extractor(str(tmp_path)).do_normalize


@torch.no_grad()
def test_attentions_of_the_backbone_are_returned_of_one_window() -> None:
    model = tiny_sound_model("wav2vec2", attn_implementation="eager")
    outputs = model(tiny_sound(9_000)[None], output_attentions=True)
    assert len(outputs.attentions) == 2 and outputs.attentions[0].shape[:2] == (1, 2) and outputs.group_ids
    with pytest.raises(ValueError, match="at most 8 windows, all of one length"):
        model(tiny_sound(900_000)[None], output_attentions=True)


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        (BACKBONES["bert"], {"subsequence_length": 32}, "reads input_values, but the backbone 'bert'"),
        (SOUND_BACKBONES["hubert"], {"pooling": "cls"}, "pooling='cls' reads the first moment"),
        (SOUND_BACKBONES["hubert"], {"num_mixed_layers": 9}, "num_mixed_layers=9 is more than"),
        (SOUND_BACKBONES["hubert"], {"subsequence_length": 300}, "A frame has 480 samples"),
        (SOUND_BACKBONES["hubert"], {"subsequence_stride": 16_000}, "Take a stride below the length"),
        (SOUND_BACKBONES["whisper"], {"subsequence_length": 32_000}, "at once 16000 samples are read"),
        (Wav2Vec2Config(add_adapter=True), {}, "'wav2vec2' makes its frames in a way that is not known here"),
        (Wav2Vec2BertConfig(), {}, "'wav2vec2-bert' makes its frames in a way"),
        (SOUND_BACKBONES["hubert"], {"tiles": True}, "tiles=True is for images"),
    ],
)
def test_what_cannot_be_is_refused(backbone: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config = SelfAttnConfig(
            backbone_config=deepcopy(backbone), **{**HEADS, **({"subsequence_length": 16_000} | options)}
        )
        SelfAttnForAudioClassification(config)


def test_inputs_that_are_no_sound_are_refused() -> None:
    model, sound = tiny_sound_model(), tiny_sound()[None]
    with pytest.raises(ValueError, match=r"input_values have shape \(1, 80, 3000\), but sound is read as it is"):
        model(torch.zeros(1, 80, 3_000))
    with pytest.raises(ValueError, match=r"Rows \[1\] have no samples"):
        model(sound.repeat(2, 1), attention_mask=torch.stack([torch.ones(8_001), torch.zeros(8_001)]))
    with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 3\), but input_values need \(1, 8001\)"):
        model(sound, attention_mask=torch.ones(1, 3))
    with pytest.raises(ValueError, match="none were given"):
        model()
    with pytest.raises(ValueError, match=r"does not read \['input_features'\]"):
        model(input_features=sound)


def test_a_graph_of_sound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it has no ONNX export"):
        export_onnx(tiny_sound_model(), tmp_path / "model.onnx")


def test_layerdrop_is_off_and_a_configuration_stays_what_it_is(tmp_path: Path) -> None:
    config = tiny_sound_config("whisper", vocab_size=6, pad_token_id=0)
    SelfAttnForCTC(config).save_pretrained(tmp_path)
    again = SelfAttnConfig.from_pretrained(tmp_path)
    assert (again.vocab_size, again.pad_token_id, again.inputs_to_logits_ratio) == (6, 0, 320)
    assert again.backbone_config.vocab_size == 51_865 and again.bos_token_id is None
    assert again.to_dict() == SelfAttnConfig.from_pretrained(tmp_path).to_dict()
    assert tiny_sound_config("wav2vec2").backbone_config.layerdrop == 0
