"""Both ends of a round trip over the hub, each a process: `python round_trips.py author|reader FOLDER [remote]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from field_round_trips import parse_files_once
from huggingface_hub import HfApi
from transformers import AutoModel, pipeline

USER = "tester"
FAMILIES = ("bert", "roberta", "distilbert", "mpnet", "deberta-v2", "modernbert")
TASKS = ("single_label", "multi_label", "regression", "token")
TUNINGS = ("full", "lora", "ia3")
SMALL: dict[str, Any] = {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 8, "subsequence_stride": 4}
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
LABELS: dict[str, dict[str, Any]] = {
    "single_label": {"id2label": {0: "bad", 1: "fair", 2: "good"}, "problem_type": "single_label_classification"},
    "multi_label": {"id2label": {0: "art", 1: "law", 2: "war"}, "problem_type": "multi_label_classification"},
    "regression": {"id2label": {0: "valence"}, "problem_type": "regression"},
    "token": {"id2label": dict(enumerate(TAGS))},
}
ANSWERS = {
    "single_label": {"temperature": 1.7},
    "multi_label": {"temperature": 0.6, "thresholds": [0.2, 0.5, 0.7]},
    "regression": {},
    "token": {},
}
TEXT = "w7 w8 w9 w10 " * 30


def cases() -> Iterator[tuple[str, str, str, str]]:
    """Yield repository, family, task and tuning of every checkpoint."""
    for family in FAMILIES:
        for task in TASKS:
            for tuning in TUNINGS:
                yield f"{USER}/{family}-{task}-{tuning}".replace("_", "-"), family, task, tuning


def author(folder: Path) -> None:
    """Push a tiny backbone of each family; train every kind of model on it for three steps, save and push it."""
    from peft import get_peft_model
    from tiny_models import BACKBONES, tiny_batch, tiny_labels, tiny_tokenizer, tiny_wordpiece

    from hf_selfattn import SelfAttnForSequenceClassification, SelfAttnForTokenClassification
    from hf_selfattn.adapters import add_lora, method_config
    from hf_selfattn.hub.saving import save_adapter

    api, expected = HfApi(), {}
    for family in FAMILIES:
        torch.manual_seed(0)
        AutoModel.from_config(BACKBONES[family]).save_pretrained(folder / family)
        tiny_tokenizer().save_pretrained(folder / family)
        api.create_repo(f"{USER}/{family}")
        api.upload_folder(folder_path=folder / family, repo_id=f"{USER}/{family}")
    for repo, family, task, tuning in cases():
        torch.manual_seed(1)
        kind = SelfAttnForTokenClassification if task == "token" else SelfAttnForSequenceClassification
        model: Any = kind.from_backbone(f"{USER}/{family}", **SMALL, **LABELS[task])
        task_type = "TOKEN_CLS" if task == "token" else "SEQ_CLS"
        if tuning == "lora":
            model = add_lora(model, task_type, r=4)
        elif tuning == "ia3":
            model = get_peft_model(model, method_config(model, "IA3", task_type))
        batch = tiny_batch([70, 9], family)
        labels = tiny_labels(task, batch)
        if task == "token":
            labels["labels"][labels["labels"] > 0] = 1  # B-PER everywhere is legal
        optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-2)
        model.train()
        for _ in range(3):
            optimizer.zero_grad()
            model(**batch, **labels).loss.backward()
            optimizer.step()
        for name, value in ANSWERS[task].items():
            setattr(model.config, name, value)
        model.eval()
        with torch.no_grad():
            expected[repo] = model(**batch).logits
        target = folder / repo
        tokenizer = tiny_wordpiece() if task == "token" else tiny_tokenizer()
        if tuning == "full":
            model.save_pretrained(target)
            tokenizer.save_pretrained(target)
        else:
            save_adapter(model, tokenizer, target, batch=batch)
        api.create_repo(repo)
        api.upload_folder(folder_path=target, repo_id=repo)
    batches = {family: tiny_batch([70, 9], family) for family in FAMILIES}
    torch.save({"batches": batches, "logits": expected}, folder / "expected.pt")


def reader(folder: Path, remote: bool) -> None:
    """Pull every checkpoint into a pipeline, which opens it by its auto class, and compare its answers."""
    if remote:
        parse_files_once()
    else:
        import hf_selfattn  # noqa: F401
    options = {"trust_remote_code": True} if remote else {}
    expected = torch.load(folder / "expected.pt")
    for repo, family, task, _ in cases():
        token = task == "token"
        name = "token-classification" if token else "text-classification"
        pipe = pipeline(name, model=repo, **({} if token else {"top_k": None}), **options)
        model = pipe.model
        assert type(model).__module__.split(".")[0] == ("transformers_modules" if remote else "hf_selfattn"), repo
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        with torch.no_grad():
            logits = model(**expected["batches"][family]).logits
        assert torch.equal(logits, expected["logits"][repo]), (repo, (logits - expected["logits"][repo]).abs().max())
        names = LABELS[task]["id2label"]
        assert model.config.id2label == names, (repo, model.config.id2label)
        for name, value in ANSWERS[task].items():
            assert getattr(model.config, name) == value, (repo, name)
        answer = pipe([TEXT])[0]
        found = {entry["entity" if token else "label"] for entry in answer}
        assert found <= set(names.values()) if token else found == set(names.values()), (repo, found)
        assert pipe.tokenizer.model_max_length > len(TEXT)


if __name__ == "__main__":
    torch.set_num_threads(1)
    side, place, *rest = sys.argv[1:]
    author(Path(place)) if side == "author" else reader(Path(place), remote=rest == ["remote"])
