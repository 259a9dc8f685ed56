"""The study of answers far away: its documents, the forms that it compares and its results file."""

from __future__ import annotations

from math import log, sqrt
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.quality import twins
from benchmarks.quality.twins_task import (
    CLASSES,
    FEATURES,
    NOT_ASKED,
    PAIRS,
    TASKS,
    TOPIC_DIM,
    Documents,
    Tagger,
    draw_documents,
    pairs_in_one_block,
    relation,
)
from benchmarks.records import read_results
from hf_selfattn.modeling import attention_selfattn
from hf_selfattn.modeling.grouping_selfattn import group_similarity, sort_by_group

QUICK = twins.Settings(stages=((256, 1, 1), (512, 1, 1)), test_tokens=512, test_documents=2)


def documents_of(task: str, num_tokens: int = 512, rows: int = 2) -> Documents:
    return draw_documents(task, rows, num_tokens, relation(3), torch.Generator().manual_seed(5))


def found_class(task: str, features: Tensor, place: int) -> int:
    """The class at the token that fits a question best, one token after the other."""
    question = features[place, :TOPIC_DIM]
    start = 0
    if task == "elsewhere":
        question, start = question @ relation(3), TOPIC_DIM
    likeness = [float(token[start : start + TOPIC_DIM] @ question) for token in features]
    likeness[place] = -float("inf")
    return int(features[likeness.index(max(likeness)), -CLASSES:].argmax())


@pytest.mark.parametrize("task", TASKS)
def test_the_class_stands_at_one_token_far_from_the_question_and_a_lookup_finds_it(task: str) -> None:
    documents = documents_of(task)
    shows_class = documents.features[..., -CLASSES:].any(dim=-1)
    for row, features in enumerate(documents.features):
        stated, asked = documents.stated[row].tolist(), documents.asked[row].tolist()
        assert len({*stated, *asked}) == 2 * PAIRS
        assert shows_class[row].nonzero().flatten().tolist() == sorted(stated)
        assert (documents.labels[row] != NOT_ASKED).nonzero().flatten().tolist() == sorted(asked)
        for place, question in zip(stated, asked, strict=True):
            assert abs(place - question) == 256 > twins.WINDOW
            label = int(documents.labels[row, question])
            assert int(features[place, -CLASSES:].argmax()) == label == found_class(task, features, question)


def test_documents_are_new_and_half_of_the_tokens_ask_or_answer() -> None:
    random = torch.Generator().manual_seed(5)
    first, second = (draw_documents("elsewhere", 1, 512, relation(3), random).features for _ in range(2))
    assert not torch.equal(first, second)
    asks, answers = first[..., :TOPIC_DIM].any(dim=-1), first[..., TOPIC_DIM:-CLASSES].any(dim=-1)
    assert torch.equal(asks, ~answers) and 200 < int(asks.sum()) < 312
    assert not documents_of("twins").features[..., TOPIC_DIM:-CLASSES].any()


def with_the_solution(task: str) -> Tagger:
    """A tagger whose metric is the relation of question and definition, and whose values are the class."""
    torch.manual_seed(0)
    tagger = Tagger(num_self_attention_heads=0)
    head = tagger.grouped
    assert head is not None
    with torch.no_grad():
        for weight in (*head.qkv.parameters(), *head.output.parameters(), head.metric.weight, tagger.classifier.bias):
            weight.zero_()
        head.metric.weight[:, :TOPIC_DIM] = torch.eye(TOPIC_DIM)
        if task == "elsewhere":
            head.metric.weight[:, TOPIC_DIM:-CLASSES] = relation(3)
        head.metric_scale.fill_(60)
        for h in range(head.num_heads):
            start = h * (head.qkv.out_features // head.num_heads) + 2 * head.head_dim
            head.qkv.weight[start : start + CLASSES, -CLASSES:] = torch.eye(CLASSES)
            head.output.weight[-CLASSES:, h * head.value_dim : h * head.value_dim + CLASSES] = torch.eye(CLASSES)
        tagger.classifier.weight.copy_(torch.eye(FEATURES)[-CLASSES:])
    return tagger.eval()


@pytest.mark.parametrize("task", TASKS)
def test_full_attention_can_solve_it_and_sorted_by_similarity_pairs_share_a_block(task: str) -> None:
    documents = documents_of(task, 1024)
    tagger = with_the_solution(task)
    tagger.set_block_size(1024)
    asked = documents.labels != NOT_ASKED
    assert torch.equal(tagger(documents.features).argmax(dim=-1)[asked], documents.labels[asked])
    tagger.set_block_size(16)
    together = pairs_in_one_block(tagger, documents)
    assert together["group"] > 0.7 and 0.6 < together["block"] <= together["block_of_any_head"] <= 1


@pytest.mark.parametrize("hidden", ["near", "far"])
def test_a_hidden_field_is_left_out(hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = torch.zeros(())  # the linear term of the far field
    monkeypatch.setattr(attention_selfattn, "far_field_slope", lambda *given: (nothing, nothing))
    torch.manual_seed(0)
    tagger = Tagger(num_self_attention_heads=0).eval()
    head, layer = tagger.grouped, tagger.heads.layers[0]
    assert head is not None
    head.register_forward_pre_hook(twins.hide_field(hidden))
    features = documents_of("twins", 256, rows=1).features
    seen: list[Tensor] = []
    head.register_forward_hook(lambda module, inputs, output: seen.append(output[0][0]))
    tagger(features)
    x = layer.grouped_norm(features)[0]
    u = head.unit_metric(x)
    order = sort_by_group(group_similarity(u[None], head.prototypes), torch.tensor([256]))[1][0]
    expected = torch.zeros(256, head.num_heads, head.value_dim)
    for h, row in enumerate(head.qkv(x).view(256, head.num_heads, -1).unbind(dim=1)):
        q, k, v, _ = row.split([head.head_dim, head.head_dim, head.value_dim, 1], dim=-1)
        q, k = torch.cat([q / sqrt(head.head_dim), u * head.metric_scale[h]], dim=-1), torch.cat([k, u], dim=-1)
        blocks = order[h].split(64)
        for block in blocks:
            keys, values, bias = k[block], v[block], 0.0
            if hidden == "near":
                keys, values = (torch.stack([part[each].mean(dim=0) for each in blocks]) for part in (k, v))
                bias = log(64)
            for i in block.tolist():
                expected[i, h] = F.softmax(keys @ q[i] + bias, dim=0) @ values
    torch.testing.assert_close(seen[0], head.output(expected.flatten(1)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", twins.FORMS)
def test_every_form_trains_on_as_many_keys_as_it_says(name: str) -> None:
    form = twins.FORMS[name]
    result = twins.run(name, "twins", 0, QUICK)
    assert 0 <= result["accuracy"]["low"] <= result["accuracy"]["value"] <= result["accuracy"]["high"] <= 1
    assert sum(map(int, result["hits"].split())) == pytest.approx(64 * result["accuracy"]["value"], abs=0.01)
    assert form.num_keys(4096) <= 0.07 * 4096 or name == "full"
    tagger = twins.build(form, "twins", 0)
    fresh = {key: value.detach().clone() for key, value in tagger.named_parameters()}
    twins.train(tagger, form, "twins", 0, QUICK)
    same = {key for key, value in fresh.items() if torch.equal(value, tagger.get_parameter(key))}
    assert {key.split(".")[-2] for key in same if "weight" in key} == ({"metric"} if form.fixed_metric else set())


def test_scores_are_shares_of_questions_and_of_full_attention() -> None:
    scores = twins.score([32, 16, 24, 24], [32, 32, 32, 24])
    assert scores["accuracy"]["value"] == 0.75 and scores["share_of_full"]["value"] == 0.8
    assert scores["accuracy"]["low"] < 0.75 < scores["accuracy"]["high"]


def test_the_results_file_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "twins.json"
    twins.results(path, QUICK, ["full"], (0,))
    before = read_results(path)
    assert before["command"] and before["environment"]["versions"]["torch"]
    asked: list[tuple[str, str, int]] = []
    run = twins.run

    def noted(name: str, task: str, seed: int, settings: twins.Settings) -> dict[str, object]:
        asked.append((name, task, seed))
        return run(name, task, seed, settings)

    monkeypatch.setattr(twins, "run", noted)
    lines = twins.results(path, QUICK, ["full", "window"], (0,))
    assert asked == [("window", task, 0) for task in TASKS]
    after = read_results(path)
    assert after["rows"][:2] == before["rows"] and len(after["rows"]) == 4 and after["summary"] == lines
    assert [line["share_of_full"]["value"] for line in lines if line["form"] == "full"] == [1.0, 1.0]
    other = twins.Settings(stages=QUICK.stages, test_tokens=512, test_documents=3)
    with pytest.raises(ValueError, match="is of the settings"):
        twins.results(path, other, ["full"], (0,))
