"""Which parameters train, and several named adapters on one model."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import main_output, tiny_batch, tiny_labels, tiny_model
from torch import Tensor, nn
from warm_python import warm_python

from hf_selfattn.adapters import add_lora, lora_config, method_config, mixed_logits

TASKS = {"single_label": "SEQ_CLS", "token": "TOKEN_CLS"}
HEADS = re.compile(r"(model\.heads|classifier|crf)\.")

# The layers of each encoder block that get adapters: by LoRA, by IA3, and the backbone's name of its blocks.
BERT_LIKE = (
    "encoder.layer",
    ["attention.self.query", "attention.self.value"],
    ["attention.self.key", "attention.self.value", "attention.output.dense", "output.dense"],
)
LAYERS = {
    "bert": BERT_LIKE,
    "roberta": BERT_LIKE,
    "electra": BERT_LIKE,
    "distilbert": (
        "transformer.layer",
        ["attention.q_lin", "attention.v_lin"],
        ["attention.k_lin", "attention.v_lin", "ffn.lin2"],
    ),
    "mpnet": (
        "encoder.layer",
        ["attention.attn.q", "attention.attn.v"],
        ["attention.attn.k", "attention.attn.v", "output.dense"],
    ),
    "deberta-v2": (
        "encoder.layer",
        ["attention.self.query_proj", "attention.self.value_proj"],
        ["attention.self.key_proj", "attention.self.value_proj", "attention.output.dense", "output.dense"],
    ),
    "modernbert": ("layers", ["attn.Wqkv"], ["attn.Wqkv", "mlp.Wo"]),
}


def trainable(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def heads_of(model: Any) -> set[str]:
    """The heads' parameters by the names that PEFT gives them."""
    names = {name for name, _ in model.named_parameters() if HEADS.match(name)}
    return {"base_model.model." + HEADS.sub(r"\1.modules_to_save.default.", name) for name in names}


def adapters_on(blocks: str, layers: list[str], suffixes: list[str]) -> set[str]:
    prefix = f"base_model.model.model.backbone.{blocks}"
    return {f"{prefix}.{block}.{layer}.{end}" for block in (0, 1) for layer in layers for end in suffixes}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", LAYERS)
def test_exact_set_of_trainable_parameters(family: str, task: str) -> None:
    blocks, lora_layers, ia3_layers = LAYERS[family]
    plain = tiny_model(task, family)
    assert trainable(plain) == {name for name, _ in plain.named_parameters()}
    heads = heads_of(plain)
    assert len(heads) > 10
    lora = add_lora(tiny_model(task, family), TASKS[task], r=4)
    linear = [name for name, module in plain.named_modules() if type(module) is nn.Linear and ".backbone." in name]
    assert len(linear) > 2 * len(lora_layers)
    assert trainable(lora) == heads | {
        f"base_model.model.{name}.lora_{end}.default.weight" for name in linear for end in "AB"
    }
    model = tiny_model(task, family)
    ia3 = get_peft_model(model, method_config(model, "IA3", TASKS[task]))
    assert trainable(ia3) == heads | adapters_on(blocks, ia3_layers, ["ia3_l.default"])


def test_heads_of_a_crf_train_too() -> None:
    model = tiny_model("token", decoding="crf", id2label={0: "O", 1: "B-A", 2: "I-A"}, num_labels=3)
    config = method_config(model, "LOHA", "TOKEN_CLS", r=2)
    assert config.modules_to_save == ["heads", "classifier", "crf"]
    names = trainable(get_peft_model(model, config))
    assert any(".crf.modules_to_save.default.transition_scores" in name for name in names)


def test_stock_peft_finds_the_layers_of_every_family() -> None:
    for family, (blocks, lora_layers, _) in LAYERS.items():
        for model in (tiny_model(family=family), tiny_model("model", family)):
            adapted = get_peft_model(model, LoraConfig(r=2))
            found = {name.split("backbone.")[1] for name in adapted.base_model.targeted_module_names}
            assert found == {f"{blocks}.{block}.{layer}" for block in (0, 1) for layer in lora_layers}


def test_unknown_methods_and_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="method='LORAX' is unknown to this version of PEFT; it knows ADALORA"):
        method_config(tiny_model(), "LORAX", "SEQ_CLS")
    with pytest.raises(ValueError, match="task_type='NER' is unknown"):
        method_config(tiny_model(), "IA3", "NER")


def shake(model: Any, seed: int) -> None:
    """Move what trains, so that each adapter answers differently."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def three_adapters(task: str) -> PeftModel:
    model = tiny_model(task)
    config = {"r": 4}
    adapted = get_peft_model(model, lora_config(model, TASKS[task], **config), adapter_name="news")
    for name in ("law", "mail"):
        adapted.add_adapter(name, lora_config(tiny_model(task), TASKS[task], **config))
    for seed, name in enumerate(("news", "law", "mail")):
        adapted.set_adapter(name)
        shake(adapted, seed)
    adapted.set_adapter("news")
    return adapted.eval()


@torch.no_grad()
def answers(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return main_output(model(**batch))


@pytest.mark.parametrize("task", TASKS)
def test_each_row_is_answered_by_its_adapter_and_its_heads(task: str) -> None:
    model = three_adapters(task)
    batch = tiny_batch([70, 9, 40, 12])  # longer than a window, too
    before = trainable(model)
    alone = {}
    for name in ("news", "law", "mail"):
        model.set_adapter(name)
        alone[name] = answers(model, batch)
    with model.disable_adapter():
        alone["__base__"] = answers(model, batch)
    torch.testing.assert_close(alone["__base__"], answers(tiny_model(task), batch))
    model.set_adapter("news")
    names = ["law", "news", "__base__", "mail"]
    mixed = mixed_logits(model, names, **batch)
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], alone[name][row], atol=2e-5, rtol=0)
        assert all(not torch.allclose(mixed[row], alone[other][row], atol=1e-3) for other in {*alone} - {name})
    assert model.active_adapter == "news" and trainable(model) == before
    torch.testing.assert_close(answers(model, batch), alone["news"])


def test_mixed_batches_that_cannot_be_are_refused() -> None:
    model, batch = three_adapters("single_label"), tiny_batch([9, 9])
    with pytest.raises(ValueError, match="There are 1 adapter_names for 2 rows"):
        mixed_logits(model, ["news"], **batch)
    with pytest.raises(ValueError, match=r"There is no adapter \['wiki'\]; the model has \['law', 'mail', 'news'\]"):
        mixed_logits(model, ["news", "wiki"], **batch)
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        mixed_logits(model.train(), ["news", "law"], **batch)


def test_adapters_are_saved_by_name_reopened_under_another_and_deleted(tmp_path: Path) -> None:
    model, batch = three_adapters("single_label"), tiny_batch([40, 9])
    model.save_pretrained(tmp_path)
    reopened = PeftModel.from_pretrained(tiny_model(), tmp_path / "law", adapter_name="contracts")
    reopened.load_adapter(tmp_path / "mail", adapter_name="letters")
    for old, new in (("law", "contracts"), ("mail", "letters")):
        model.set_adapter(old)
        reopened.set_adapter(new)
        assert torch.allclose(answers(reopened.eval(), batch), answers(model, batch), atol=1e-6)
    reopened.delete_adapter("contracts")
    assert set(reopened.peft_config) == {"letters"}
    assert not any("contracts" in name for name, _ in reopened.named_parameters())


@pytest.mark.parametrize("method", ["LORA", "IA3", "LOHA", "OFT"])
@pytest.mark.parametrize("task", TASKS)
def test_merged_model_answers_the_same(task: str, method: str) -> None:
    options = {"OFT": {"oft_block_size": 4}, "LORA": {"r": 4}, "LOHA": {"r": 4}}.get(method, {})
    model = tiny_model(task)
    adapted = get_peft_model(model, method_config(model, method, TASKS[task], **options)).eval()
    shake(adapted, 5)
    batch = tiny_batch([70, 9])
    expected = answers(adapted, batch)
    assert not torch.allclose(expected, answers(tiny_model(task), batch), atol=1e-3)
    merged = adapted.merge_and_unload()
    assert type(merged) is type(model)
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in tiny_model(task).named_parameters()}
    torch.testing.assert_close(answers(merged, batch), expected, atol=1e-5, rtol=0)


def test_weighted_adapters_share_the_heads() -> None:
    """PEFT adds up adapters that have no heads of their own; those that have are refused, not mixed up."""
    adapted = get_peft_model(tiny_model(), LoraConfig(r=4), adapter_name="news")
    adapted.add_adapter("law", LoraConfig(r=4))
    for seed, name in enumerate(("news", "law")):
        adapted.set_adapter(name)
        shake(adapted.eval(), seed)
    batch = tiny_batch([40, 9])
    adapted.set_adapter("news")
    only_news = answers(adapted, batch)
    adapted.add_weighted_adapter(["news", "law"], [1.0, 0.0], "same", combination_type="cat")
    adapted.add_weighted_adapter(["news", "law"], [0.5, 0.5], "both", combination_type="cat")
    adapted.set_adapter("same")
    torch.testing.assert_close(answers(adapted, batch), only_news, atol=1e-5, rtol=0)
    adapted.set_adapter("both")
    both = answers(adapted, batch)
    assert not torch.allclose(both, only_news, atol=1e-4)
    torch.testing.assert_close(answers(adapted.merge_and_unload(), batch), both, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="modules_to_save"):
        three_adapters("single_label").add_weighted_adapter(["news", "law"], [0.5, 0.5], "both")


def test_training_changes_what_trains_and_nothing_else() -> None:
    model = add_lora(tiny_model(), "SEQ_CLS", r=4).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):  # lora_A gets its first gradient when lora_B is no longer 0
        batch = tiny_batch([40, 9])
        optimizer.zero_grad()
        model(**batch, **tiny_labels("single_label", batch)).loss.backward()
        optimizer.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == trainable(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("imports", "works"),
    [
        ("import hf_selfattn, peft; {build}", True),
        ("import peft, hf_selfattn; {build}", True),
        ("import hf_selfattn; {build}; import peft", False),
        ("import hf_selfattn; {build}; import peft, hf_selfattn.adapters", True),
    ],
)
def test_order_of_imports(imports: str, works: bool) -> None:
    """The package does not import PEFT; our layers are known to it from the first model built after it is imported."""
    build = "model = __import__('tiny_models').tiny_model()"
    lines = [
        *imports.format(build=build).split("; "),
        "found = peft.utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get('selfattn')",
        f"assert (found is not None) is {works}",
    ]
    if imports.startswith("import hf_selfattn"):
        lines = ["import sys, hf_selfattn", "assert 'peft' not in sys.modules", *lines]
    code = "\n".join(lines)
    done = subprocess.run([warm_python(), "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


def environment() -> dict[str, str]:
    """Not that of the tests, for Hugging Face: a process that has it has imported PEFT."""
    here = Path(__file__).parent
    own = {"HF_ANOTHER": "1", "PYTHONPATH": os.pathsep.join([str(here.parent), str(here / "support")])}
    return {**os.environ, **own}
