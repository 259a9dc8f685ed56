from __future__ import annotations

import itertools
import re
import time

import pytest
import torch
from torch import nn

from hf_selfattn.modeling.decoding_selfattn import (
    NO_WORD,
    LinearChainCRF,
    crf_nll,
    decode,
    illegal_words,
    tag_tables,
    transition_mask,
)

IOB2 = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
BIOES = ["O", "B-X", "I-X", "E-X", "S-X"]
GRAMMARS = {
    tuple(IOB2): r"(O |B-(\w+) (I-\2 )*)*",
    tuple(BIOES): r"(O |S-\w+ |B-(\w+) (I-\2 )*E-\2 )*",
    ("O", "B-X", "I-X", "E-X", "S-X", "B-Y", "E-Y"): r"(O |S-\w+ |B-(\w+) (I-\2 )*E-\2 )*",
    ("B-X", "I-X"): r"(B-X (I-X )*)*",
}
MASKS = torch.tensor(
    [
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 1],
        [0, 1, 1, 0, 0, 1],
        [1, 0, 1, 0, 1, 0],
        [0, 0, 0, 0, 1, 0],
    ]
).bool()


def tables(kind, C=5, seed=0):
    """Boolean tables of IOB2 or BIOES, or scores of which some are forbidden."""
    if kind == "iob2":
        return transition_mask(IOB2)
    if kind == "bioes":
        return transition_mask(BIOES)
    generator = torch.Generator().manual_seed(seed)
    start, transitions, end = (torch.randn(*shape, generator=generator).double() for shape in ((C,), (C, C), (C,)))
    return start, transitions.masked_fill(torch.rand(C, C, generator=generator) < 0.2, -1e9), end


def numbers(table):
    return torch.where(table, 0.0, -1e9).double() if table.dtype == torch.bool else table.double()


def every_sequence(scores_NC, start, transitions, end):
    """Return all sequences of labels and their scores, by the definition."""
    start, transitions, end = map(numbers, (start, transitions, end))
    N, C = scores_NC.shape
    sequences = list(itertools.product(range(C), repeat=N))
    labels = torch.tensor(sequences)
    total = start[labels[:, 0]] + end[labels[:, -1]]
    for n in range(N):
        total = total + scores_NC[n, labels[:, n]]
    for n in range(1, N):
        total = total + transitions[labels[:, n - 1], labels[:, n]]
    return labels, total


def random_scores(N=6, C=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(len(MASKS), N, C, generator=generator, dtype=dtype)


def viterbi_decode(scores, mask, *table):
    return decode(scores, mask, *table)[0]


def marginals(scores, mask, *table):
    return decode(scores, mask, *table)[1]


KINDS = pytest.mark.parametrize("kind", ["iob2", "bioes", "learned"])


@KINDS
def test_path_likelihood_and_marginals_equal_brute_force(kind):
    scores, table = random_scores(), tables(kind)
    paths, probs = decode(scores, MASKS, *table)
    nll = crf_nll(scores, paths, MASKS, *table)
    assert torch.equal(paths == NO_WORD, ~MASKS)
    assert probs[~MASKS].eq(0).all()
    for row, words in enumerate(MASKS):
        labels, totals = every_sequence(scores[row, words], *table)
        assert paths[row, words].tolist() == labels[totals.argmax()].tolist()
        torch.testing.assert_close(nll[row], totals.logsumexp(0) - totals.max())
        share = totals.softmax(0)
        naive = torch.stack([(share[:, None] * (labels == c)).sum(0) for c in range(scores.shape[2])], dim=1)
        torch.testing.assert_close(probs[row, words], naive)


@pytest.mark.parametrize(("N", "C"), [(N, C) for N in range(1, 7) for C in range(1, 6)])
def test_every_length_and_number_of_tags_equals_brute_force(N, C):
    scores, table = random_scores(N, C, seed=N * 10 + C)[:1], tables("all", C, seed=C)
    mask = torch.ones(1, N, dtype=torch.bool)
    labels, totals = every_sequence(scores[0], *table)
    assert viterbi_decode(scores, mask, *table)[0].tolist() == labels[totals.argmax()].tolist()
    for number in (0, len(labels) // 2, len(labels) - 1):
        found = crf_nll(scores, labels[number : number + 1], mask, *table)[0]
        torch.testing.assert_close(found, totals.logsumexp(0) - totals[number])


def test_gradients_equal_those_of_brute_force():
    scores = random_scores().requires_grad_()
    table = [part.clone().requires_grad_() for part in tables("learned")]
    gold = viterbi_decode(random_scores(seed=1), MASKS, *table)  # some labels that are legal
    found = torch.autograd.grad(crf_nll(scores, gold, MASKS, *table).sum(), [scores, *table])
    naive = 0
    for row, words in enumerate(MASKS):
        labels, totals = every_sequence(scores[row, words], *table)
        naive = naive + totals.logsumexp(0) - totals[(labels == gold[row, words]).all(1)].squeeze()
    expected = torch.autograd.grad(naive, [scores, *table])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@KINDS
def test_gradcheck(kind):
    scores = random_scores()[:4, :, :].clone().requires_grad_()
    parts = [part if part.dtype == torch.bool else part.clamp(min=-9).requires_grad_() for part in tables(kind)]
    gold = viterbi_decode(random_scores(seed=2)[:4], MASKS[:4], *parts)
    assert torch.autograd.gradcheck(lambda s, *t: crf_nll(s, gold, MASKS[:4], *t), (scores, *parts))
    assert torch.autograd.gradcheck(lambda s, *t: marginals(s, MASKS[:4], *t), (scores, *parts))


@KINDS
def test_padding_and_holes_change_nothing(kind):
    scores, table = random_scores(dtype=torch.float32), tables(kind)
    garbage = scores.masked_fill(~MASKS[..., None], torch.nan).requires_grad_()
    paths, probs = decode(garbage, MASKS, *table)
    nll = crf_nll(garbage, paths, MASKS, *table)
    for row, words in enumerate(MASKS):
        alone, every = scores[row : row + 1, words], torch.ones(1, int(words.sum()), dtype=torch.bool)
        assert torch.equal(viterbi_decode(alone, every, *table)[0], paths[row, words])
        torch.testing.assert_close(crf_nll(alone, paths[row : row + 1, words], every, *table)[0], nll[row])
        torch.testing.assert_close(marginals(alone, every, *table)[0], probs[row, words])
    (gradient,) = torch.autograd.grad(nll.sum(), garbage)
    assert gradient.isfinite().all() and gradient[~MASKS].eq(0).all()


def test_a_row_without_words():
    scores = random_scores(dtype=torch.float32)[:2]
    scores[0] = torch.nan
    scores.requires_grad_()
    mask = torch.stack([torch.zeros(6).bool(), torch.ones(6).bool()])
    table = tables("iob2")
    paths = viterbi_decode(scores, mask, *table)
    assert paths[0].eq(NO_WORD).all() and marginals(scores, mask, *table)[0].eq(0).all()
    nll = crf_nll(scores, paths, mask, *table)
    assert nll[0] == 0 and nll[1] > 0
    nll.sum().backward()
    assert scores.grad.isfinite().all() and scores.grad[0].eq(0).all() and scores.grad[1].ne(0).any()


def test_ignored_labels_are_no_words():
    scores, table = random_scores(), tables("learned")
    gold = viterbi_decode(random_scores(seed=3), MASKS, *table)
    everywhere = torch.ones_like(MASKS)
    assert torch.equal(crf_nll(scores, gold, everywhere, *table), crf_nll(scores, gold, MASKS, *table))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_rows_in_low_precision(dtype):
    generator = torch.Generator().manual_seed(0)
    scores = (10 * torch.randn(2, 2000, 9, generator=generator)).to(dtype)
    names = ["O", *(f"{role}-{kind}" for kind in ("PER", "LOC", "ORG", "MISC") for role in "BI")]
    table, mask = transition_mask(names), torch.ones(2, 2000, dtype=torch.bool)
    mask[1, 500:700] = False
    scores.requires_grad_()
    paths = viterbi_decode(scores, mask, *table)
    nll = crf_nll(scores, paths, mask, *table)
    nll.sum().backward()
    assert nll.dtype == torch.float32 and nll.isfinite().all() and scores.grad.isfinite().all()
    exact = scores.detach().double()
    torch.testing.assert_close(nll.double(), crf_nll(exact, paths, mask, *table), rtol=1e-5, atol=1e-3)
    probs = marginals(scores.detach(), mask, *table)
    torch.testing.assert_close(probs.double(), marginals(exact, mask, *table), rtol=0, atol=1e-5)
    offset = scores.detach().float() + 1e4  # the sums pass the precision of float32
    assert torch.equal(viterbi_decode(offset, mask, *table), viterbi_decode(offset.double(), mask, *table))


@pytest.mark.parametrize("names", GRAMMARS)
def test_legal_sequences_are_those_of_the_grammar(names):
    start, transitions, end = transition_mask(list(names))
    for length in range(1, 5):
        for sequence in itertools.product(range(len(names)), repeat=length):
            legal = start[sequence[0]] and end[sequence[-1]]
            legal = legal and all(transitions[pair] for pair in itertools.pairwise(sequence))
            text = "".join(f"{names[label]} " for label in sequence)
            assert bool(legal) == bool(re.fullmatch(GRAMMARS[names], text)), text


@pytest.mark.parametrize(
    "names",
    [
        ["LABEL_0", "LABEL_1"],
        ["O", "I-PER", "I-LOC"],  # IO
        ["O", "B-LOC", "I-LOC", "I-PER"],  # IOB1, in which no two persons touch
        ["B", "I", "E"],  # no tag for a row of one word
        ["NOUN", "VERB"],
    ],
)
def test_labels_of_no_scheme_are_all_legal(names):
    assert all(table.all() for table in transition_mask(names))
    assert not any(map(any, tag_tables(tuple(names))[3]))


def test_no_labels_are_an_error():
    with pytest.raises(ValueError, match="label_names is empty"):
        transition_mask([])


def test_bilou_and_bmes_are_names_for_bioes():
    for names in (["O", "B-X", "I-X", "L-X", "U-X"], ["O", "B-X", "M-X", "E-X", "S-X"], ["O", "B", "M", "E", "S"]):
        for one, other in zip(transition_mask(names), transition_mask(BIOES), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("names", [IOB2, BIOES])
@pytest.mark.parametrize("spread", [0.0, 1.0, 300.0])
def test_decoded_sequences_are_always_legal(names, spread):
    generator = torch.Generator().manual_seed(4)
    scores = spread * torch.randn(200, 12, 5, generator=generator)
    mask = torch.arange(12) < torch.randint(1, 13, (200, 1), generator=generator)
    table = transition_mask(names)
    paths, plain = viterbi_decode(scores, mask, *table), scores.argmax(dim=2)
    assert not illegal_words(paths, mask, *table).any()
    probs = marginals(scores, mask, *table)
    torch.testing.assert_close(probs.sum(dim=2), mask.float())
    start, _, end = table
    assert not probs[:, 0, ~start].any() and not probs[mask.sum(dim=1) == 12, 11][:, ~end].any()
    for path in paths.tolist():
        text = "".join(f"{names[label]} " for label in path if label != NO_WORD)
        assert re.fullmatch(GRAMMARS[tuple(names)], text), text
    plain_is_legal = ~illegal_words(plain, mask, *table).any(dim=1)
    assert torch.equal(paths[plain_is_legal][mask[plain_is_legal]], plain[plain_is_legal][mask[plain_is_legal]])


def test_illegal_words_names_the_word():
    labels = torch.tensor([[2, 0, 1, 2, 9, 4, 2], [9, 9, 9, 9, 9, 9, 9]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 1, 1], [0] * 7]).bool()
    found = illegal_words(labels, mask, *transition_mask(IOB2))
    assert found.nonzero().tolist() == [[0, 0], [0, 5], [0, 6]]
    unfinished = illegal_words(torch.tensor([[0, 1, 9]]), torch.tensor([[True, True, False]]), *transition_mask(BIOES))
    assert unfinished.nonzero().tolist() == [[0, 1]]


def fresh_crf(names=IOB2, spread=0.0):
    crf, generator = LinearChainCRF(names), torch.Generator().manual_seed(5)
    for scores in crf.parameters():
        nn.init.zeros_(scores).data.add_(spread * torch.randn(scores.shape, generator=generator))
    return crf


def test_crf_of_zeros_is_the_legal_model():
    scores, crf, table = random_scores(dtype=torch.float32), fresh_crf(), transition_mask(IOB2)
    paths, probs = decode(scores, MASKS, *crf.tables())
    assert torch.equal(paths, viterbi_decode(scores, MASKS, *table))
    torch.testing.assert_close(probs, marginals(scores, MASKS, *table))
    torch.testing.assert_close(crf(scores, paths, MASKS), crf_nll(scores, paths, MASKS, *table))


def test_every_legal_parameter_of_the_crf_learns_and_no_other():
    scores, crf = random_scores(dtype=torch.float32), fresh_crf(spread=1.0)
    crf(scores, viterbi_decode(random_scores(seed=1).float(), MASKS, *crf.tables()), MASKS).sum().backward()
    for parameter, legal in zip(crf.parameters(), transition_mask(IOB2), strict=True):
        assert parameter.grad[legal].ne(0).all() and parameter.grad[~legal].eq(0).all()


def test_crf_learns_what_no_word_shows():
    """The labels alternate while the scores say nothing: only the transitions can tell."""
    crf, scores, mask = fresh_crf(["LABEL_0", "LABEL_1"]), torch.zeros(4, 9, 2), torch.ones(4, 9, dtype=torch.bool)
    gold = (torch.arange(9) % 2).expand(4, 9)
    optimizer = torch.optim.SGD(crf.parameters(), lr=0.3)
    losses = []
    for _ in range(60):
        loss = crf(scores, gold, mask).mean() / 9
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < losses[0]
    assert torch.equal(viterbi_decode(scores, mask, *crf.tables()), gold)


def test_clear_errors():
    crf, scores, mask = fresh_crf(), torch.zeros(2, 4, 5), torch.ones(2, 4, dtype=torch.bool)
    gold = torch.zeros(2, 4, dtype=torch.long)
    broken, unknown = gold.clone(), gold.clone()
    broken[1, 2], unknown[0, 3] = 4, 5
    with pytest.raises(ValueError, match=r"labels\[1, 2\] is 'I-LOC', word 3 of the 4 .*\(O I-LOC O\)"):
        crf(scores, broken, mask)
    with pytest.raises(ValueError, match=r"labels\[0, 3\] is 5, but there are 5 labels"):
        crf(scores, unknown, mask)
    with pytest.raises(ValueError, match="Give one label for each position"):
        crf(scores, gold[:, :3], mask)
    with pytest.raises(ValueError, match="Give torch.bool"):
        decode(scores, mask.long(), *crf.tables())
    with pytest.raises(ValueError, match=r"shape \(2, 4, 5\) and the mask \(2, 3\)"):
        decode(scores, mask[:, :3], *crf.tables())
    with pytest.raises(ValueError, match=r"3 labels need \[\(3,\), \(3, 3\), \(3,\)\]"):
        decode(scores[..., :3], mask, *crf.tables())


class Decoder(nn.Module):
    """All that a model's forward pass may call."""

    def __init__(self):
        super().__init__()
        self.crf = fresh_crf(spread=1.0)

    def forward(self, scores, mask):
        paths, probs = decode(scores, mask, *self.crf.tables())
        return paths, probs, crf_nll(scores, paths, mask, *self.crf.tables())


def test_export_and_compile_at_a_fixed_shape():
    model, scores = Decoder().eval(), random_scores(dtype=torch.float32)
    exported = torch.export.export(model, (torch.zeros_like(scores), torch.ones_like(MASKS))).module()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for other in (exported, compiled):
            for found, expected in zip(other(scores, MASKS), model(scores, MASKS), strict=True):
                torch.testing.assert_close(found, expected)


def test_decoding_a_test_set_takes_no_time():
    """As many sentences as CoNLL-2003's test set has, of its mean length, in batches of 32."""
    generator = torch.Generator().manual_seed(6)
    lengths = (torch.empty(3453).exponential_(1 / 14, generator=generator).long() + 1).clamp(max=124)
    names = ["O", *(f"{role}-{kind}" for kind in ("PER", "LOC", "ORG", "MISC") for role in "BI")]
    table = transition_mask(names)
    masks = [torch.arange(int(part.max())) < part[:, None] for part in lengths.split(32)]
    batches = [(torch.randn(*mask.shape, 9, generator=generator), mask) for mask in masks]
    begin = time.process_time()
    for scores, mask in batches:
        decode(scores, mask, *table)
    assert time.process_time() - begin < 3  # seconds of one core; about .4 on a quiet machine
