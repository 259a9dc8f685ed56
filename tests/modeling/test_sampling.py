"""Training that reads a random share of the windows or of the tokens; evaluation reads everything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import HIDDEN_SIZE, WINDOW, tiny_batch, tiny_config, tiny_labels, tiny_model
from torch import Tensor, nn

from hf_selfattn.modeling.heads_selfattn import SelfAttnHeads
from hf_selfattn.modeling.sampling_selfattn import draw, draw_tokens
from hf_selfattn.modeling.subsequences_selfattn import plan_windows

ROWS = [2 * WINDOW + 5, 1, WINDOW + 7, 9]
LONG = [4 * WINDOW, 20, 3 * WINDOW]
RATES = {"token_keep_rate": 0.5, "subsequence_keep_rate": 0.5}


def training_model(task: str = "single_label", **options: Any) -> Any:
    """A model in training mode without dropout: all that is random is what it reads."""
    model = tiny_model(task, **{"classifier_dropout": 0.0, **options}).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.model.backbone.eval()
    return model


def random_heads(**options: Any) -> SelfAttnHeads:
    """Heads in double precision and training mode, with random weights and prototypes."""
    heads = SelfAttnHeads(tiny_config(**options))
    for value in (*heads.parameters(), *(layer.grouped_attention.prototypes for layer in heads.layers)):
        nn.init.normal_(value, std=0.4)
    return heads.double().train()


def test_all_items_are_drawn_alike() -> None:
    torch.manual_seed(0)
    counts = torch.tensor([6, 3, 1])
    seen = torch.zeros(3, 6)
    for _ in range(2000):
        places, drawn = draw(counts, 0.5, torch.zeros(3, 6))
        assert places.shape == (3, 3) and drawn.tolist() == [3, 2, 1]
        for row, number in enumerate(drawn.tolist()):
            assert places[row, :number].tolist() == sorted(set(places[row, :number].tolist()))
            seen[row, places[row, :number]] += 1
    torch.testing.assert_close(seen[0] / 2000, torch.full((6,), 3 / 6), atol=0.04, rtol=0)
    torch.testing.assert_close(seen[1] / 2000, torch.tensor([2 / 3] * 3 + [0.0] * 3), atol=0.04, rtol=0)
    assert seen[2].tolist() == [2000, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("keep_rate", "expected"), [(0.01, 1), (0.25, 5), (0.5, 10), (0.9, 18), (1.0, 20)])
def test_the_share_is_kept_and_special_tokens_first(keep_rate: float, expected: int) -> None:
    for _ in range(20):
        tokens = draw_tokens(torch.tensor([20, 10]), 20, keep_rate, num_prefix=2, num_suffix=1)
        assert tokens.places_BR.shape == (2, expected) and tokens.lengths_B[0] == expected
        kept = [row[:number].tolist() for row, number in zip(tokens.places_BR, tokens.lengths_B, strict=True)]
        assert kept[0][0] == kept[1][0] == 0, "the first token stays whatever the rate"
        if expected >= 5:
            assert kept[0][1] == 1 and kept[0][-1] == 19
        assert len(set(tokens.places_BR[1].tolist())) == expected and all(place < 10 for place in kept[1])


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("num_head_layers", [1, 2])
def test_heads_are_those_of_the_shorter_rows(num_head_layers: int, norm_position: str) -> None:
    """The naive form: each row alone, its kept tokens as a text of their own, and the others one by one."""
    options = {"num_head_layers": num_head_layers, "norm_position": norm_position}
    heads = random_heads(token_keep_rate=0.6, **options)
    whole = random_heads(**options)
    whole.load_state_dict(heads.state_dict())
    lengths = [23, 17, 1]
    x = torch.randn(3, 23, HIDDEN_SIZE, dtype=torch.float64, requires_grad=True)
    output = heads((x,), torch.tensor(lengths))
    rows, expected = [], []
    for row, length in enumerate(lengths):
        kept = output.tokens_read[row].nonzero()[:, 0]
        assert len(kept) == max(1, round(0.6 * length)) and kept.max() < length
        alone = whole((x[row : row + 1, kept],)).features[0]
        for place in range(length):
            other = x[row, place]
            for layer in whole.layers:
                other = other if layer.output_norm is None else layer.output_norm(other)
            expected.append(alone[kept.tolist().index(place)] if place in kept else other)
            rows.append(output.features[row, place])
    torch.testing.assert_close(torch.stack(rows), torch.stack(expected), atol=1e-9, rtol=1e-9)
    direction = torch.randn(len(rows), HIDDEN_SIZE, dtype=torch.float64)
    actual = torch.autograd.grad((torch.stack(rows) * direction).sum(), [x, *heads.parameters()])
    naive = torch.autograd.grad((torch.stack(expected) * direction).sum(), [x, *whole.parameters()])
    for one, other in zip(actual, naive, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def window_sources(model: Any, ids: Tensor) -> list[list[int]]:
    """The places in one row of the tokens of each of its windows."""
    frame = model.config.prefix_token_ids, model.config.suffix_token_ids
    plan = plan_windows(ids[None], None, WINDOW, model.config.subsequence_stride, *frame)
    pairs = zip(plan.source_BSW[0], plan.mask_BSW[0], strict=True)
    return [source[mask].tolist() for source, mask in pairs]


def naive_logits(model: Any, ids: Tensor, is_read: Tensor) -> Tensor:
    """One row: its windows one by one, the read tokens from the window in which they have most context."""
    base, windows = model.model, window_sources(model, ids)
    states = [base.backbone(input_ids=ids[places][None]).last_hidden_state[0] for places in windows]
    half = model.config.subsequence_stride // 2
    features = []
    for place in is_read.nonzero()[:, 0].tolist():
        holding = [number for number, places in enumerate(windows) if place in places[1:-1]]
        if place in (0, len(ids) - 1):  # the row's own special tokens
            holding = [0 if place == 0 else len(windows) - 1]
        number = holding[0]
        if len(holding) == 2 and place - windows[holding[1]][1] >= half:
            number = holding[1]
        features.append(states[number][windows[number].index(place)])
    heads = base.heads((torch.stack(features)[None],))
    return model.classifier(heads.features)[0]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling", ["class_query", "cls"])
def test_windows_that_are_not_read_have_no_part(pooling: str, side: str) -> None:
    model = training_model(subsequence_keep_rate=0.5, pooling=pooling)
    batch = tiny_batch(LONG, padding_side=side)
    torch.manual_seed(3)
    is_read = model.model(**batch).tokens_read
    torch.manual_seed(3)
    logits = model(**batch).logits
    for row, length in enumerate(LONG):
        own = slice(0, length) if side == "right" else slice(max(LONG) - length, None)
        read = is_read[row, own]
        assert is_read[row].sum() == read.sum(), "padding is not read"
        assert bool(read.all()) == (length <= WINDOW)
        assert bool(read[0]) or pooling != "cls"
        expected = naive_logits(model, batch["input_ids"][row, own], read)
        torch.testing.assert_close(logits[row], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("keep_rate", "expected"), [(1.0, 5 + 1 + 4), (0.6, 3 + 1 + 2), (0.2, 1 + 1 + 1)])
def test_the_backbone_runs_on_fewer_windows(keep_rate: float, expected: int) -> None:
    model, batch = training_model(subsequence_keep_rate=keep_rate), tiny_batch(LONG)
    numbers: list[int] = []
    model.model.backbone.register_forward_hook(
        lambda module, given, options, output: numbers.append(len(options["input_ids"])), with_kwargs=True
    )
    model(**batch)
    model.eval()(**batch)
    assert numbers == [expected, 10]


@pytest.mark.parametrize("task", ["single_label", "token"])
def test_evaluation_reads_everything(task: str) -> None:
    rates = {"token_keep_rate": 0.5} if task == "token" else RATES
    batch = tiny_batch(ROWS)
    assert torch.equal(tiny_model(task, **rates)(**batch).logits, tiny_model(task)(**batch).logits)
    assert tiny_model("model", **rates)(**batch).tokens_read is None
    outputs = [training_model(task, **options)(**batch) for options in (rates, {})]
    assert not torch.equal(outputs[0].logits, outputs[1].logits)
    assert set(outputs[0]) == {"logits"}


def test_at_rate_1_nothing_is_drawn() -> None:
    model, batch = training_model(token_keep_rate=1.0, subsequence_keep_rate=1), tiny_batch(ROWS)
    state = torch.get_rng_state()
    logits = model(**batch).logits
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(logits, model.eval()(**batch).logits)


def test_whoever_asks_for_attentions_gets_those_of_all_tokens() -> None:
    model, batch = training_model(**RATES), tiny_batch(ROWS)
    model.set_attn_implementation("eager")
    outputs = model(**batch, output_attentions=True)
    assert torch.equal(outputs.logits, model.eval()(**batch, output_attentions=True).logits)
    assert outputs.group_ids[0].shape == (len(ROWS), 3, max(ROWS))


def test_a_seed_repeats_the_draws() -> None:
    model, batch = training_model(**RATES), tiny_batch(ROWS)
    logits = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        logits.append(model(**batch).logits)
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("task", ["single_label", "token"])
def test_every_parameter_gets_a_gradient(task: str, checkpointing: bool) -> None:
    rates = {"token_keep_rate": 0.5} if task == "token" else RATES
    model, batch = training_model(task, **rates), tiny_batch(LONG)
    model.model.backbone.train()
    if checkpointing:
        (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    model(**batch, **tiny_labels(task, batch)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or "bias" in name, name


@pytest.mark.parametrize("rates", [{"token_keep_rate": 0.5}, {"subsequence_keep_rate": 0.5}, RATES])
@pytest.mark.parametrize("side", ["right", "left"])
def test_kept_features_are_read_as_the_backbone_is(side: str, rates: dict[str, float]) -> None:
    """With the same draws; the backbone is not run."""
    model = training_model(**rates)
    batch = tiny_batch(LONG, padding_side=side)
    whole = tiny_model("model", num_self_attention_heads=0, num_grouped_attention_heads=0)
    whole.backbone.load_state_dict(model.model.backbone.state_dict())
    features = whole(**batch).last_hidden_state[:, :, None]
    torch.manual_seed(1)
    expected = model(**batch).logits
    torch.manual_seed(1)
    model.model.backbone.forward = None
    torch.testing.assert_close(model(**batch, features=features).logits, expected, atol=1e-5, rtol=1e-4)


def test_taggers_read_all_windows() -> None:
    with pytest.raises(ValueError, match=r"subsequence_keep_rate=0.5 is for sequence classification.*token_keep_rate"):
        tiny_model("token", subsequence_keep_rate=0.5)


def test_taggers_learn_from_the_tokens_that_are_not_read() -> None:
    model, batch = training_model("token", token_keep_rate=0.5, word_pooling="first"), tiny_batch([20, 9])
    torch.manual_seed(0)
    is_read = model.model(**batch).tokens_read
    losses = {}
    for kind, chosen in (("read", is_read), ("not read", ~is_read & batch["attention_mask"].bool())):
        labels = torch.where(chosen, batch["input_ids"] % 5, -100)
        torch.manual_seed(0)
        model.zero_grad()
        losses[kind] = model(**batch, labels=labels).loss
        losses[kind].backward()
        reached = model.model.heads.layers[0].fusion_weight.grad
        assert bool(reached.any()) == (kind == "read"), "the others pass the heads by"
    assert all(loss > 0 for loss in losses.values())


@pytest.mark.slow
def test_compiled_training_draws_too() -> None:
    torch.compiler.reset()
    model, batch = training_model(**RATES), tiny_batch([70, 9])
    outputs = torch.compile(model.model, fullgraph=True, backend="aot_eager")(**batch)
    outputs.last_hidden_state.sum().backward()
    in_part, whole = outputs.tokens_read.sum(dim=1).tolist()
    assert 10 < in_part < 30 and whole == 5, "half of the tokens, of two or one of three windows in the first row"
    assert all(parameter.grad.isfinite().all() for parameter in model.model.parameters())


@pytest.mark.slow
@torch.no_grad()
def test_an_exported_program_reads_everything() -> None:
    model, batch = tiny_model(**RATES), tiny_batch([70, 9])
    exported = torch.export.export(model, (), batch).module()
    for _ in range(2):
        torch.testing.assert_close(exported(**batch).logits, tiny_model()(**batch).logits, atol=1e-5, rtol=0)
