"""A checkpoint without backbone weights opens on the right backbone, answers as trained, and on no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftModel,
    PromptTuningConfig,
    TaskType,
    VeraConfig,
    get_peft_model,
)
from tiny_models import (
    BACKBONES,
    TASKS,
    aligned,
    tiny_batch,
    tiny_labels,
    tiny_text,
    tiny_tokenizer,
    tiny_wordpiece,
)
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    pipeline,
)

from hf_selfattn import SelfAttnConfig, SelfAttnForSequenceClassification
from hf_selfattn.adapters import add_lora, merge_adapters, open_adapter
from hf_selfattn.hub.saving import save_adapter
from hf_selfattn.modeling.adapter_selfattn import ADAPTER_NAME, OTHER_WEIGHTS, save_adapter_checkpoint

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "single_label": ("SEQ_CLS", {"id2label": {0: "bad", 1: "fair", 2: "good"}, "temperature": 1.7}),
    "two_labels": ("SEQ_CLS", {"id2label": {0: "no", 1: "yes"}, "num_labels": 2}),
    "multi_label": ("SEQ_CLS", {"id2label": {0: "a", 1: "b", 2: "c"}, "thresholds": [0.2, 0.5, 0.7]}),
    "regression": ("SEQ_CLS", {}),
    "viterbi": ("TOKEN_CLS", {"id2label": dict(enumerate(["O", "B-X", "I-X", "B-Y", "I-Y"])), "decoding": "viterbi"}),
    "crf": ("TOKEN_CLS", {"id2label": dict(enumerate(["O", "B-X", "I-X", "B-Y", "I-Y"])), "decoding": "crf"}),
}
TASK_OF = {"two_labels": "single_label", "viterbi": "token", "crf": "token"}
SMALL: dict[str, Any] = {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 8, "subsequence_stride": 4}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbones")
    for family in ("bert", "deberta-v2", "modernbert", "roberta"):
        torch.manual_seed(3)
        AutoModel.from_config(BACKBONES[family]).save_pretrained(folder / family)
        tiny_wordpiece().save_pretrained(folder / family)
    return folder


def tuned(backbone: Path, kind: str = "single_label", peft: Any = None) -> PeftModel:
    """An adapter whose every weight is far from where it began."""
    task, options = KINDS[kind]
    model_class, task_options = TASKS[TASK_OF.get(kind, kind)]
    labels = {**SMALL, **task_options, **options}
    if "id2label" in labels:
        labels["label2id"] = {name: number for number, name in labels["id2label"].items()}
        del labels["num_labels"]
    model = model_class.from_backbone(str(backbone), fusion_init=0.7, **labels)
    adapted = add_lora(model, task, r=4) if peft is None else get_peft_model(model, peft)
    generator = torch.Generator().manual_seed(5)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return adapted.eval()


def auto_class(kind: str) -> Any:
    return AutoModelForTokenClassification if KINDS[kind][0] == "TOKEN_CLS" else AutoModelForSequenceClassification


def logits(model: Any, family: str = "bert") -> torch.Tensor:
    with torch.no_grad():
        return aligned(model)(**tiny_batch([70, 9], family)).logits


def saved(adapted: PeftModel, folder: Path, backbone: Path) -> Path:
    save_adapter(adapted, tiny_wordpiece(), folder, backbone_name_or_path=str(backbone))
    return folder


@pytest.fixture(scope="module")
def checkpoint(backbones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tuned(backbones / "bert"), tmp_path_factory.mktemp("adapter") / "it", backbones / "bert")


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint to spoil."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert", "roberta"])
def test_opened_it_is_what_was_trained(family: str, kind: str, backbones: Path, tmp_path: Path) -> None:
    adapted = tuned(backbones / family, kind)
    folder = saved(adapted, tmp_path / "it", backbones / family)
    opened = auto_class(kind).from_pretrained(folder, backbone_name_or_path=str(backbones / family))
    assert type(opened) is type(adapted.get_base_model()) and not opened.training
    assert torch.equal(logits(opened, family), logits(adapted, family))
    mine, theirs = adapted.get_base_model(), opened
    for name, value in mine.config.to_dict().items():
        unlike = name in ("_name_or_path", "architectures", "dtype", "backbone_config")
        assert unlike or getattr(theirs.config, name) == value, name
    buffers = dict(theirs.named_buffers())
    for name, buffer in mine.named_buffers():
        if "modules_to_save" not in name and "original_module" not in name:
            assert torch.equal(buffers[name], buffer), name
    if kind in ("viterbi", "crf"):
        assert opened.continues_word.sum() == 12


def test_no_weight_of_the_backbone_and_no_path_is_written(checkpoint: Path, backbones: Path) -> None:
    files = {str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file()}
    weights = {name for name in files if name.endswith((".safetensors", ".bin"))}
    assert weights == {f"{ADAPTER_NAME}/adapter_model.safetensors"}
    assert {"config.json", "tokenizer.json", "modeling_selfattn.py", "adapter_selfattn.py"} <= files
    for name in files:
        content = (checkpoint / name).read_bytes()
        assert str(backbones).encode() not in content and b"/tmp/" not in content, name
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["backbone_name_or_path"] is None and len(config["backbone_hash"]) == 64
    assert config["temperature"] == 1.7 and config["id2label"] == {"0": "bad", "1": "fair", "2": "good"}


METHODS: dict[str, Any] = {
    "ia3": lambda **o: IA3Config(target_modules=["key", "value"], feedforward_modules=[], **o),
    "dora": lambda **o: LoraConfig(r=2, use_dora=True, target_modules=["query"], **o),
    "rslora": lambda **o: LoraConfig(r=2, use_rslora=True, target_modules=["query"], **o),
    "bias": lambda **o: LoraConfig(r=2, bias="all", target_modules=["query"], **o),
    "embeddings": lambda **o: LoraConfig(r=2, target_modules=["word_embeddings", "query"], **o),
    "vera": lambda **o: VeraConfig(r=8, target_modules=["query", "value"], **o),
    "adalora": lambda **o: AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=["query"], **o),
    "boft": lambda **o: BOFTConfig(boft_block_size=4, target_modules=["query"], **o),
    "ln_tuning": lambda **o: LNTuningConfig(target_modules=["LayerNorm"], **o),
}


@pytest.mark.parametrize("method", METHODS)
def test_any_method_of_peft_that_changes_layers(method: str, backbones: Path, tmp_path: Path) -> None:
    peft = METHODS[method](task_type=TaskType.SEQ_CLS, modules_to_save=["heads", "classifier"])
    adapted = tuned(backbones / "bert", peft=peft)
    folder = saved(adapted, tmp_path / "it", backbones / "bert")
    opened = AutoModelForSequenceClassification.from_pretrained(folder, backbone_name_or_path=str(backbones / "bert"))
    assert torch.equal(logits(opened), logits(adapted))


def test_heads_that_were_not_trained_are_kept_too(backbones: Path, tmp_path: Path) -> None:
    peft = LoraConfig(r=2, target_modules=["query", "query_proj"], task_type=TaskType.SEQ_CLS)
    adapted = tuned(backbones / "bert", peft=peft)  # PEFT itself saves the classifier
    folder = saved(adapted, tmp_path / "it", backbones / "bert")
    others = folder / ADAPTER_NAME / OTHER_WEIGHTS
    assert others.is_file()
    place = {"backbone_name_or_path": str(backbones / "bert")}
    opened = AutoModelForSequenceClassification.from_pretrained(folder, **place)
    assert torch.equal(logits(opened), logits(adapted))
    others.unlink()
    with pytest.raises(ValueError, match="does not fit its model: it lacks"):
        AutoModelForSequenceClassification.from_pretrained(folder, **place)


def test_a_method_that_puts_tokens_before_the_input_is_refused(backbones: Path, tmp_path: Path) -> None:
    peft = PromptTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=2)
    model = SelfAttnForSequenceClassification.from_backbone(str(backbones / "bert"), **SMALL)
    with pytest.raises(ValueError, match="PROMPT_TUNING acts outside of the model"):
        save_adapter_checkpoint(get_peft_model(model, peft), tmp_path / "it")
    assert not (tmp_path / "it" / "config.json").exists()


@pytest.mark.parametrize(("kind", "names"), [("single_label", {"bad", "fair", "good"}), ("two_labels", {"no", "yes"})])
def test_the_pipeline_knows_the_names(kind: str, names: set[str], backbones: Path, tmp_path: Path) -> None:
    folder = saved(tuned(backbones / "bert", kind), tmp_path / "it", backbones / "bert")
    place = {"backbone_name_or_path": str(backbones / "bert")}
    classify = pipeline("text-classification", model=str(folder), model_kwargs=place, top_k=None)
    answer = classify([tiny_text(90)])[0]
    assert {entry["label"] for entry in answer} == names
    assert sum(entry["score"] for entry in answer) == pytest.approx(1)


def test_the_pipeline_tags(backbones: Path, tmp_path: Path) -> None:
    folder = saved(tuned(backbones / "bert", "crf"), tmp_path / "it", backbones / "bert")
    place = {"backbone_name_or_path": str(backbones / "bert")}
    tag = pipeline("token-classification", model=str(folder), model_kwargs=place, ignore_labels=[])
    assert {entity["entity"] for entity in tag(tiny_text(90))} <= {"O", "B-X", "I-X", "B-Y", "I-Y"}


def test_the_place_of_the_backbone_is_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"was trained on a backbone in a folder.*backbone_name_or_path=FOLDER"):
        AutoModelForSequenceClassification.from_pretrained(checkpoint)
    for place in (str(tmp_path / "nothing"), "nobody/nothing"):
        with pytest.raises(ValueError, match="The backbone '.*nothing' .* does not open"):
            AutoModelForSequenceClassification.from_pretrained(checkpoint, backbone_name_or_path=place)


def test_another_backbone_is_refused_by_its_hash(checkpoint: Path, backbones: Path, tmp_path: Path) -> None:
    other = AutoModel.from_pretrained(backbones / "bert")
    other.encoder.layer[1].output.dense.bias.data[0] += 1e-3
    other.save_pretrained(tmp_path / "other")
    trained_on = json.loads((checkpoint / "config.json").read_text())["backbone_hash"]
    with pytest.raises(ValueError, match=f"another backbone.*was {trained_on}, and here it is [0-9a-f]{{64}}"):
        AutoModelForSequenceClassification.from_pretrained(checkpoint, backbone_name_or_path=str(tmp_path / "other"))


@pytest.mark.parametrize("name", ["/etc/backbone", "../backbone", "owner/../name", "~/backbone", "C:\\b", "a/b/c", ""])
def test_a_path_in_the_configuration_is_refused(name: str, copy: Path, backbones: Path) -> None:
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**content, "backbone_name_or_path": name}))
    for options in ({}, {"backbone_name_or_path": str(backbones / "bert")}):
        for opener in (AutoModelForSequenceClassification, SelfAttnForSequenceClassification, AutoConfig):
            with pytest.raises(ValueError, match="is refused: a checkpoint names its backbone by a name on the hub"):
                opener.from_pretrained(copy, **options)


def test_a_path_as_the_adapters_folder_is_refused() -> None:
    for name in ("../outside", "/etc", "a/b", ".", ""):
        with pytest.raises(ValueError, match="adapter_subfolder"):
            SelfAttnConfig(adapter_subfolder=name)


def test_pickles_are_refused(copy: Path, backbones: Path) -> None:
    place = {"backbone_name_or_path": str(backbones / "bert")}
    weights = copy / ADAPTER_NAME / "adapter_model.safetensors"
    weights.rename(weights.with_name("adapter_model.bin"))
    with pytest.raises(ValueError, match=r"has no adapter_model\.safetensors .* never from a pickle"):
        AutoModelForSequenceClassification.from_pretrained(copy, **place)
    with pytest.raises(ValueError, match="use_safetensors=False is refused"):
        AutoModelForSequenceClassification.from_pretrained(copy, **place, use_safetensors=False)


def test_a_backbone_that_is_a_pickle_is_refused(backbones: Path, tmp_path: Path) -> None:
    shutil.copytree(backbones / "bert", tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").unlink()
    torch.save(AutoModel.from_pretrained(backbones / "bert").state_dict(), tmp_path / "b" / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        SelfAttnForSequenceClassification.from_backbone(str(tmp_path / "b"), **SMALL)


def test_the_wrong_class_and_unknown_options_are_refused(checkpoint: Path, backbones: Path) -> None:
    place = {"backbone_name_or_path": str(backbones / "bert")}
    with pytest.raises(ValueError, match="was trained on SelfAttnForSequenceClassification.*AutoModelForSequenceCl"):
        AutoModelForTokenClassification.from_pretrained(checkpoint, **place)
    with pytest.raises(ValueError, match=r"cannot be opened with \['no_such_option'\]"):
        AutoModelForSequenceClassification.from_pretrained(checkpoint, **place, no_such_option=1)
    with pytest.raises(ValueError, match="device_map='auto' is refused"):
        AutoModelForSequenceClassification.from_pretrained(checkpoint, **place, device_map="auto")


def test_options_of_from_pretrained(checkpoint: Path, backbones: Path) -> None:
    place = {"backbone_name_or_path": str(backbones / "bert"), "device_map": "cpu", "output_loading_info": True}
    opened, info = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, **place, dtype=torch.bfloat16, attn_implementation="eager", top_one_if_none=False
    )
    assert not any(info.values())
    assert {opened.dtype, opened.model.backbone.dtype} == {torch.bfloat16}
    assert opened.config._attn_implementation == opened.model.backbone.config._attn_implementation == "eager"
    assert opened.config.top_one_if_none is False
    batch = tiny_batch([20, 9])
    assert opened(**batch, output_attentions=True).attentions


def test_a_backbone_in_half_precision(backbones: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(backbones / "bert", dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    tiny_wordpiece().save_pretrained(tmp_path / "half")
    for dtype in (torch.float32, torch.bfloat16):
        model = SelfAttnForSequenceClassification.from_backbone(str(tmp_path / "half"), **SMALL, dtype=dtype)
        adapted = add_lora(model, "SEQ_CLS", r=4).eval()
        folder = saved(adapted, tmp_path / str(dtype), tmp_path / "half")
        opened = AutoModelForSequenceClassification.from_pretrained(
            folder, backbone_name_or_path=str(tmp_path / "half")
        )
        assert opened.model.backbone.dtype == dtype
        assert torch.equal(logits(opened), logits(adapted))


def test_saved_again_and_merged(checkpoint: Path, backbones: Path, tmp_path: Path) -> None:
    place = {"backbone_name_or_path": str(backbones / "bert")}
    opened = AutoModelForSequenceClassification.from_pretrained(checkpoint, **place)
    expected = logits(opened)
    opened.save_pretrained(tmp_path / "again")
    for name in ("config.json", f"{ADAPTER_NAME}/adapter_config.json", f"{ADAPTER_NAME}/adapter_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (checkpoint / name).read_bytes(), name
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again", **place)
    assert torch.equal(logits(again), expected)
    with pytest.raises(ValueError, match="call model.push_to_hub"):
        again.save_pretrained(tmp_path / "hub", push_to_hub=True)
    merge_adapters(again).save_pretrained(tmp_path / "whole")
    whole = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole")
    assert whole.config.adapter_subfolder is None and not (tmp_path / "whole" / ADAPTER_NAME).exists()
    torch.testing.assert_close(logits(whole), expected, atol=1e-5, rtol=0)


def test_training_goes_on(checkpoint: Path, backbones: Path, tmp_path: Path) -> None:
    adapted = open_adapter(checkpoint, is_trainable=True, backbone_name_or_path=str(backbones / "bert"))
    before = {name: value.clone() for name, value in adapted.named_parameters()}
    batch = tiny_batch([40, 9])
    optimizer = torch.optim.SGD([value for value in adapted.parameters() if value.requires_grad], lr=0.1)
    adapted.train()(**batch, **tiny_labels("single_label", batch)).loss.backward()
    optimizer.step()
    for name, value in adapted.named_parameters():
        assert value.requires_grad == ("lora_" in name or ".modules_to_save." in name), name
        assert value.requires_grad or torch.equal(value, before[name])
    folder = saved(adapted.eval(), tmp_path / "further", backbones / "bert")
    opened = open_adapter(folder, backbone_name_or_path=str(backbones / "bert"))
    assert not any(value.requires_grad for value in opened.parameters())
    assert torch.equal(logits(opened), logits(adapted))
    assert not torch.equal(
        logits(opened), logits(open_adapter(checkpoint, backbone_name_or_path=str(backbones / "bert")))
    )


def test_opened_by_peft_itself(checkpoint: Path, backbones: Path) -> None:
    place = {"backbone_name_or_path": str(backbones / "bert")}
    base = AutoModelForSequenceClassification.from_pretrained(checkpoint, **place, with_adapter=False)
    adapted = PeftModel.from_pretrained(base, checkpoint, subfolder=ADAPTER_NAME).eval()
    assert torch.equal(
        logits(adapted), logits(AutoModelForSequenceClassification.from_pretrained(checkpoint, **place))
    )


def test_a_backbone_that_is_not_the_one_opened_is_refused(backbones: Path, tmp_path: Path) -> None:
    model = SelfAttnForSequenceClassification.from_backbone(str(backbones / "bert"), **SMALL)
    model.resize_token_embeddings(105)
    with pytest.raises(ValueError, match="its vocabulary was resized"):
        save_adapter_checkpoint(add_lora(model, "SEQ_CLS", r=2), tmp_path / "it")
    with pytest.raises(ValueError, match="holds no adapter"):
        model.save_pretrained(tmp_path / "whole")
        open_adapter(tmp_path / "whole")


@pytest.mark.slow
def test_the_checkpoint_of_a_backbone_of_the_size_of_minilm_is_small(tmp_path: Path) -> None:
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    AutoModel.from_config(BertConfig(**sizes)).save_pretrained(tmp_path / "b")
    tiny_tokenizer().save_pretrained(tmp_path / "b")
    model = SelfAttnForSequenceClassification.from_backbone(str(tmp_path / "b"), num_labels=2)
    folder = saved(add_lora(model, "SEQ_CLS", r=16).eval(), tmp_path / "it", tmp_path / "b")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size <= 6_000_000, f"{size:,} bytes"
