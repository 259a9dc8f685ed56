"""Random configurations, checkpoints, batches and texts through the models."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from fuzz_files import SIGNS
from huggingface_hub.errors import StrictDataclassError
from tiny_models import BACKBONES, TASKS, family_tokenizer, main_output, tiny_batch, tiny_model, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, pipeline

from hf_selfattn import SelfAttnForSequenceClassification, add_lora, save_adapter
from hf_selfattn.modeling.configuration_selfattn import known_fields

VALUES: list[Any] = [
    None,
    "",
    "x",
    0,
    1,
    2,
    3,
    7,
    8,
    -1,
    0.5,
    -0.5,
    1e9,
    float("nan"),
    True,
    False,
    [],
    [1],
    ["a"],
    {},
    {"0": "x"},
]
NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
FAMILIES = ["bert", "roberta", "xlm-roberta", "deberta-v2", "modernbert"]
TEXTS = ["the kettle boils fast and looks neat", "Lisbon and Ghent signed a deal .", "Jonas met Bo in Ghent , later"]
OPTIONS: dict[str, list[Any]] = {
    "num_self_attention_heads": [0, 1, 2],
    "num_grouped_attention_heads": [0, 1, 3],
    "num_head_layers": [1, 2],
    "num_groups": [1, 2, 5],
    "group_dim": [1, 4, 8],
    "block_size": [1, 3, 8, 64],
    "attention_window": [1, 5, 16, 64],
    "subsequence_length": [8, 17, 32],
    "subsequence_stride": [0, 1, 3],
    "num_mixed_layers": [1, 2, 3],
    "norm_type": ["layernorm", "rmsnorm"],
    "pooling": ["class_query", "mean", "cls"],
    "word_pooling": ["first", "mean"],
    "decoding": ["argmax", "viterbi", "crf"],
}
# What Transformers reads before the configuration is ours to check.
OF_TRANSFORMERS = {"model_type", "architectures", "auto_map", "dtype", "transformers_version", "id2label", "label2id"}


@cache
def checkpoint(kind: str) -> Path:
    """Return the folder of a saved tiny model, or of an adapter on the backbone beside it."""
    folder = Path(tempfile.mkdtemp())
    if kind == "whole":
        tiny_model().save_pretrained(folder / kind)
        return folder / kind
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
    BertModel(BertConfig(**sizes, vocab_size=99, max_position_embeddings=32)).save_pretrained(folder / "backbone")
    tiny_tokenizer().save_pretrained(folder / "backbone")
    heads = {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 8, "subsequence_stride": 4}
    model = SelfAttnForSequenceClassification.from_backbone(str(folder / "backbone"), num_labels=3, **heads)
    save_adapter(
        add_lora(model, "SEQ_CLS", r=4),
        tiny_tokenizer(),
        folder / kind,
        backbone_name_or_path=str(folder / "backbone"),
    )
    return folder / kind


def changed(random: Random, fields: dict[str, Any], names: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Lose or change fields, some of a name that nobody knows; return those that were changed."""
    fields, touched = dict(fields), []
    for _ in range(random.choice([1, 1, 2, 3])):
        name = random.choice([*names, *names, "unheard_of"])
        touched.append(name)
        if random.random() < 0.2:
            fields.pop(name, None)
        else:
            fields[name] = random.choice(VALUES)
    return fields, touched


def answers_or_says(opens: Callable[[], Any], touched: list[str]) -> str:
    """Open a model and let it answer; else see that the error names a field that was changed, or the file."""

    try:
        with torch.no_grad():
            logits = opens()(**tiny_batch([40, 9])).logits
        assert logits.dim() == 2 and len(logits) == 2
    except (ValueError, StrictDataclassError) as error:
        assert any(name in str(error) for name in touched), f"{touched}: {error!r}"
        return "refused"
    except RuntimeError as error:  # what Transformers says of weights that do not fit the configuration
        assert "ignore_mismatched_sizes" in str(error), f"{touched}: {error!r}"
        return "refused"
    return "read"


def try_configuration(random: Random, folder: Path) -> str:
    """A whole checkpoint whose `config.json` was changed by hand."""
    place = shutil.copytree(checkpoint("whole"), folder / "model", copy_function=_link_weights)
    path = place / "config.json"
    fields = json.loads(path.read_text())
    own = set(known_fields(SelfAttnForSequenceClassification.config_class) & fields.keys()) - OF_TRANSFORMERS
    fields, touched = changed(random, fields, [*sorted(own), "problem_type", "thresholds"])
    path.write_text(json.dumps(fields))
    return answers_or_says(lambda: AutoModelForSequenceClassification.from_pretrained(place), touched)


def try_adapter(random: Random, folder: Path) -> str:
    """An adapter whose `adapter_config.json` was changed by hand."""
    place = shutil.copytree(checkpoint("adapter"), folder / "model", copy_function=_link_weights)
    path = next(place.rglob("adapter_config.json"))
    fields = json.loads(path.read_text())
    fields, touched = changed(random, fields, sorted(fields))
    path.write_text(json.dumps(fields))
    backbone = str(checkpoint("adapter").parent / "backbone")
    opens = AutoModelForSequenceClassification.from_pretrained
    return answers_or_says(
        lambda: opens(place, backbone_name_or_path=backbone),
        [*touched, "adapter_config.json", "does not fit its model"],
    )


def _link_weights(source: str, target: str) -> None:
    (Path(target).hardlink_to if source.endswith(".safetensors") else lambda s: shutil.copy(s, target))(source)


@torch.no_grad()
def try_batch(random: Random, folder: Path) -> str:
    """A batch of random lengths, padding and masks: each row answers as it does alone."""
    task, family = random.choice([*TASKS]), random.choice(FAMILIES)
    options = {name: random.choice(values) for name, values in OPTIONS.items() if random.random() < 0.4}
    try:
        model = tiny_model(task, family, seed=random.randrange(10**6), **options)
    except ValueError as error:
        assert any(name in str(error) for name in options), f"{options}: {error!r}"
        return "refused"
    lengths = [
        random.choice([1, 2, 3, 8, 31, 32, 33, random.randrange(1, 150)]) for _ in range(random.randrange(1, 5))
    ]
    side = random.choice(["left", "right"])
    batch = tiny_batch(lengths, family, side, framed=random.random() < 0.7, seed=random.randrange(10**6))
    if random.random() < 0.3:  # holes in the mask
        hole = (
            torch.rand(batch["attention_mask"].shape, generator=torch.Generator().manual_seed(random.randrange(99)))
            < 0.2
        )
        hole[:, -1 if side == "left" else 0] = False  # a row of padding alone means nothing
        batch["attention_mask"] = batch["attention_mask"].masked_fill(hole, 0)
    if family == "bert" and random.random() < 0.5:
        batch["token_type_ids"] = (batch["input_ids"] % 2) * batch["attention_mask"]
    if random.random() < 0.3:
        batch["attention_mask"] = batch["attention_mask"].to(random.choice([torch.bool, torch.int32, torch.float32]))
    together = main_output(model(**batch))
    assert together.isfinite().all(), f"{task} {family} {options} {lengths} {side}"
    width = max(lengths)
    for row, length in enumerate(lengths):
        place = slice(0, length) if side == "right" else slice(width - length, width)
        alone = main_output(model(**{name: values[row : row + 1, place] for name, values in batch.items()}))[0]
        beside = together[row, place] if alone.dim() == 2 else together[row]
        if alone.dim() == 2:
            real = batch["attention_mask"][row, place].bool()
            alone, beside = alone[real], beside[real]
        torch.testing.assert_close(
            beside, alone, atol=2e-5, rtol=1e-4, msg=lambda said: f"{options} {lengths}: {said}"
        )
    return "read"


@cache
def tagger(family: str, decoding: str, entities: int) -> Any:
    """A pipeline of a tagger of large random scores, whose entities are many, short, and often touch."""
    tokenizer = family_tokenizer(family, TEXTS * 40)
    backbone, before = BACKBONES[family], deepcopy(BACKBONES[family])
    backbone.vocab_size, backbone.pad_token_id = len(tokenizer), 1
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    ends = {"prefix_token_ids": [0], "suffix_token_ids": [2]}
    model = tiny_model("token", family, decoding=decoding, seed=entities, **ends, **labels)
    BACKBONES[family] = before
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    model.read_marks(tokenizer)
    return pipeline("ner", model=model, tokenizer=tokenizer, aggregation_strategy="none", ignore_labels=[])


def try_text(random: Random, folder: Path) -> str:
    """A random text through the pipeline of a tagger: every token answers, in legal order, with its own place."""
    tag = tagger(random.choice(FAMILIES), random.choice(["argmax", "viterbi", "crf"]), random.randrange(3))
    text = "".join(_piece(random) for _ in range(random.choice([1, 5, 30, 120])))
    if not text.strip():
        return "read"
    tokens = tag(text)
    ids = tag.tokenizer(text, verbose=False)["input_ids"]
    assert len(tokens) == sum(number not in tag.tokenizer.all_special_ids or number == 3 for number in ids), repr(text)
    before, last = "O", 0
    for token in tokens:
        assert 0 <= token["start"] <= token["end"] <= len(text) and token["start"] >= last - 8, repr(text)
        last = token["start"]
        if tag.model.config.decoding != "argmax":
            legal = token["entity"][0] != "I" or before[1:] == token["entity"][1:]
            assert legal, f"{before} {token['entity']} in {text!r}"
        before = token["entity"]
    tag_simple = tag.__call__(text, aggregation_strategy="simple", ignore_labels=["O"])
    for entity in tag_simple:
        start, end = entity["start"], entity["end"]
        inside = [ids[token["index"]] for token in tokens if start <= token["start"] and token["end"] <= end]
        unknown = any(is_unknown(tag.tokenizer, number) for number in inside)
        assert text[start:end].strip() or unknown, f"a blank entity {entity} in {text!r}"
        assert entity["entity_group"] in ("LOC", "PER")
    return "read"


def is_unknown(tokenizer: Any, number: int) -> bool:
    """A token whose id does not tell what it shows: an unknown one, or some of the bytes of a sign."""
    return number == tokenizer.unk_token_id or "\ufffd" in tokenizer.decode([number])


def _piece(random: Random) -> str:
    """Return a word of the tokenizer, a sign that breaks things, or any character."""
    kind = random.randrange(3)
    if kind == 0:
        return random.choice(re.findall(r"\w+", " ".join(TEXTS))) + random.choice([" ", " ", "", "\n"])
    if kind == 1:
        return random.choice(SIGNS)
    return chr(
        random.choice(
            [random.randrange(0x20, 0x300), random.randrange(0x300, 0xD800), random.randrange(0xE000, 0x1F9FF)]
        )
    )
