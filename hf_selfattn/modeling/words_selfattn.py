# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Words of several tokens: where they begin, one feature for each, and answers that are legal for whole words.

Shape suffixes: B rows, T tokens of a padded row, D features, C labels, V ids of the vocabulary.
"""

import re
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .decoding_selfattn import LinearChainCRF, decode, tag_tables, transition_mask
from .subsequences_selfattn import real_tokens

TIE = 1e-4  # what the decoded label is above every other one, so that its argmax cannot be a tie
FADE = 0.999  # a word's later tokens are a little less sure than its first, which a pipeline may ask for the surest

# What is known of a token by its id. The first two may stand together; 0 is a word of its own that may go on.
CONTINUES = 1  # goes on with the word before it, where that may go on
CLOSES = 2  # nothing goes on with its word: punctuation, and scripts without spaces
BLANK = 4  # shows nothing and belongs to no word, as the lone `▁` of SentencePiece
SPACES = ("▁", "Ġ")  # what stands for a space at the beginning of a token
# Scripts without spaces: Thai, Lao, Tibetan, Burmese; Khmer; Chinese and Japanese.
UNSPACED = re.compile("[\u0e00-\u109f\u1780-\u17ff\u2e80-\u30ff\u31f0-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


class TokenMarks(nn.Module):
    """What is known of each id: a module of its own, since torchao opens no weight or buffer of the model itself."""

    continues_word: Tensor

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.continues_word = nn.Buffer(torch.zeros(num_tokens, dtype=torch.uint8))

    def reset_weights(self) -> None:
        """Mark nothing, unless marks were loaded."""
        init.zeros_(self.continues_word)


@dataclass
class Words:
    """Which tokens belong to which word."""

    starts_BT: Tensor  # True at the first token of each word
    members_BT: Tensor  # True at every token of a word; special tokens, blanks and padding belong to none
    first_BT: Tensor  # index of the first token of a token's word; its own where it belongs to none
    blanks_BT: Tensor  # True at tokens that show nothing
    around_BT2: Tensor  # first token of the word before, or of its own, and of the word after; T for none


def find_words(
    values: Tensor,
    attention_mask: Tensor | None,
    special_token_ids: list[int],
    marks_V: Tensor,
    word_starts: Tensor | None,
) -> Words:
    """Find the words of each row; where nothing else is known, every token but the special ones is a word.

    Args:
        values: (B, T) ids or (B, T, D) embeddings, in which special tokens cannot be told from others.
        marks_V: what is known of each id, of `token_marks`.
        word_starts: (B, T), not 0 at the first token of each word, or None to find them by `marks_V`.
    """
    word_starts = checked_starts(word_starts, values, marks_V)
    real_BT = real_tokens(attention_mask, values)
    if real_BT is None:
        real_BT = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    if values.dim() == 2:
        special = torch.tensor(special_token_ids, dtype=values.dtype, device=values.device)
        real_BT = real_BT & (values[..., None] != special).all(dim=2)
    blanks_BT = torch.zeros_like(real_BT)
    if word_starts is not None:
        starts_BT = real_BT & word_starts.bool()
    elif values.dim() == 2:
        starts_BT, blanks_BT = begin_words(marks_V[values], real_BT)
    else:
        starts_BT = real_BT
    T = values.shape[1]
    position_T = torch.arange(T, device=values.device)
    word_BT = starts_BT.cumsum(dim=1)  # 0 before the first word
    places_BT = position_T.expand_as(word_BT)
    no_word = torch.full_like(word_BT[:, :1], T).expand(-1, T + 3)  # words 1 … T, none on both sides, and the rest
    first_of_word = no_word.scatter(1, torch.where(starts_BT, word_BT, T + 2), places_BT)
    around_BT2 = torch.stack([first_of_word.gather(1, word_BT), first_of_word.gather(1, word_BT + 1)], dim=2)
    members_BT = real_BT & ~blanks_BT & (word_BT > 0)
    return Words(starts_BT, members_BT, torch.where(members_BT, around_BT2[..., 0], position_T), blanks_BT, around_BT2)


def checked_starts(word_starts: Tensor | None, values: Tensor, marks_V: Tensor) -> Tensor | None:
    """Return `word_starts` for all tokens; those that PEFT puts before the embeddings of a text begin no word."""
    B, T = values.shape[:2]
    if word_starts is None:
        if values.dim() == 3 and not torch.compiler.is_compiling() and marks_V.any():
            raise ValueError(
                "inputs_embeds do not tell which tokens go on with the word before them. Give word_starts, one number "
                "per token, 1 at the first token of each word."
            )
        return None
    if values.dim() == 3 and word_starts.shape[1] < T:
        word_starts = F.pad(word_starts, (T - word_starts.shape[1], 0))
    if word_starts.shape != (B, T):
        raise ValueError(
            f"word_starts has shape {tuple(word_starts.shape)}, but the input has {(B, T)} "
            "(batch_size, sequence_length). Give one number per token, 1 at the first token of each word."
        )
    return word_starts


def begin_words(marks_BT: Tensor, real_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, T) True at tokens that begin a word, and at blanks; neither is where `real_BT` is False."""
    blanks_BT = real_BT & (marks_BT == BLANK)
    continues_BT = (marks_BT == CONTINUES) | (marks_BT == CONTINUES + CLOSES)
    open_BT = real_BT & ((marks_BT == 0) | (marks_BT == CONTINUES))
    open_before_BT = F.pad(open_BT, (1, 0))[:, :-1]
    return real_BT & ~blanks_BT & ~(open_before_BT & continues_BT), blanks_BT


def pool_words(features_BTD: Tensor, words: Words, pooling: str) -> Tensor:
    """Return (B, T, D) one feature for each word, their mean or the first, at all of its tokens."""
    index_BTD = words.first_BT[..., None].expand_as(features_BTD)
    if pooling == "first":
        return features_BTD.gather(1, index_BTD)
    ones_BT = torch.ones_like(words.first_BT, dtype=features_BTD.dtype)
    sums_BTD = torch.zeros_like(features_BTD).scatter_add(1, index_BTD, features_BTD)
    sizes_BT = torch.zeros_like(ones_BT).scatter_add(1, words.first_BT, ones_BT)
    return sums_BTD.gather(1, index_BTD) / sizes_BT.gather(1, words.first_BT)[..., None]


def continuing_labels(label_names: list[str]) -> Tensor:
    """Return (C,) the label of a word's later tokens for each label of its first: I-X for B-X of IOB2, else itself."""
    goes_on_CC = tag_tables(tuple(label_names))[3]
    numbers = {name: number for number, name in enumerate(label_names)}
    inside = [numbers.get("I" + name[1:], i) if name[:1] == "B" else i for i, name in enumerate(label_names)]
    return torch.tensor([later if goes_on_CC[i][later] else i for i, later in enumerate(inside)])


def decode_words(
    logits_BTC: Tensor, words: Words, label_names: list[str], decoding: str, crf: LinearChainCRF | None
) -> Tensor:
    """Return (B, T, C) scores of the answer: log marginal probabilities, exchanged as in `answer_by_words`.

    With `argmax`, and for labels that are no tags of entities, they are the scores that came in.
    """
    tables = [] if crf is None else list(crf.tables())
    if not torch.compiler.is_compiling():
        return answer(logits_BTC, words, label_names, decoding, tables)
    parts = [words.starts_BT, words.members_BT, words.first_BT, words.blanks_BT, words.around_BT2]
    tables = [table.detach() for table in tables]
    return cast(Tensor, compiled_answer(logits_BTC.detach(), parts, "\n".join(label_names), decoding, tables))


def answer(logits_BTC: Tensor, words: Words, label_names: list[str], decoding: str, tables: list[Tensor]) -> Tensor:
    """Return what `decode_words` does; the tables are a CRF's, or none."""
    if not tables and not any(map(any, tag_tables(tuple(label_names))[3])):
        return logits_BTC
    scores, starts = logits_BTC.float(), words.starts_BT
    if decoding == "argmax":
        return answer_by_words(scores, scores.argmax(dim=2), words, label_names)
    path_BT, probs_BTC = decode(scores, starts, *(tables or transition_mask(label_names)))
    smallest = torch.finfo(probs_BTC.dtype).tiny
    return answer_by_words(probs_BTC.clamp(min=smallest).log(), path_BT, words, label_names)


# A compiler would unroll the steps from word to word for each length, so this is one operation, without a gradient.
@torch.library.custom_op(f"{re.sub('[^A-Za-z0-9]', '_', __name__)}::answer", mutates_args=())
def compiled_answer(
    logits: Tensor, words: list[Tensor], label_names: str, decoding: str, tables: list[Tensor]
) -> Tensor:
    """Return what `answer` does, in float32."""
    return answer(logits.float().clone(), Words(*words), label_names.split("\n"), decoding, tables)


@compiled_answer.register_fake
def shape_of_answer(logits: Tensor, *others: Any) -> Tensor:
    """Return an answer without numbers."""
    return torch.empty_like(logits, dtype=torch.float32)


def answer_by_words(scores_BTC: Tensor, path_BT: Tensor, words: Words, label_names: list[str]) -> Tensor:
    """Return (B, T, C) scores whose argmax is the decoded label at each word, and that label going on after its start;
    it and the highest one change places where they differ.
    """
    best_BT1 = scores_BTC.argmax(dim=2, keepdim=True)
    decoded_BT1 = torch.where(words.starts_BT, path_BT, 0)[..., None]
    decoded_BT1 = torch.where(words.starts_BT[..., None], decoded_BT1, best_BT1)
    answers_BTC = exchange(scores_BTC, decoded_BT1, best_BT1)

    later_C = continuing_labels(label_names).to(scores_BTC.device)
    first_BT1 = words.first_BT[..., None]
    answers_BTC = answers_BTC.gather(1, first_BT1.expand_as(answers_BTC))
    label_BT1 = decoded_BT1.gather(1, first_BT1)
    goes_on_BT1 = (words.members_BT & ~words.starts_BT)[..., None]
    later_BT1 = torch.where(goes_on_BT1, later_C[label_BT1], label_BT1)
    if "O" in label_names:
        between_BT = label_of_blanks(label_BT1[..., 0], words, label_names)
        later_BT1 = torch.where(words.blanks_BT[..., None], between_BT[..., None], later_BT1)
    answers_BTC = exchange(answers_BTC, later_BT1, label_BT1)
    top_BT1 = answers_BTC.gather(2, later_BT1)
    answers_BTC = torch.minimum(answers_BTC, top_BT1 - TIE).scatter(2, later_BT1, top_BT1)
    return torch.where(goes_on_BT1, answers_BTC * FADE, answers_BTC)


def label_of_blanks(labels_BT: Tensor, words: Words, label_names: list[str]) -> Tensor:
    """Return (B, T) the label of a blank at each place: that of the next word where an entity goes on, or O."""
    goes_on_CC = torch.tensor(tag_tables(tuple(label_names))[3], device=labels_BT.device)
    outside = label_names.index("O")
    labels_BT = F.pad(labels_BT, (0, 1), value=outside)  # where there is no word
    before_BT, after_BT = (labels_BT.gather(1, place_BT) for place_BT in words.around_BT2.unbind(2))
    return torch.where(goes_on_CC[before_BT, after_BT], after_BT, outside)


def exchange(scores_BTC: Tensor, one_BT1: Tensor, other_BT1: Tensor) -> Tensor:
    """Return scores in which two labels of each token have changed places."""
    first, second = scores_BTC.gather(2, one_BT1), scores_BTC.gather(2, other_BT1)
    return scores_BTC.scatter(2, one_BT1, second).scatter(2, other_BT1, first)


def token_marks(tokenizer: Any) -> list[int]:
    """Return what is known of each id of a tokenizer: `CONTINUES`, `CLOSES`, `BLANK` or 0.

    WordPiece marks what goes on (`##ing`), SentencePiece and byte-level BPE what stands after a space (`▁the`): all
    else that begins with a letter or a digit goes on, but nothing does with punctuation or scripts without spaces.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return []
    vocabulary: dict[str, int] = backend.get_vocab()
    prefix = getattr(backend.model, "continuing_subword_prefix", None)
    marks = [0] * (max(vocabulary.values(), default=-1) + 1)
    if prefix:
        for token, number in vocabulary.items():
            marks[number] = CONTINUES * (token.startswith(prefix) and token != prefix)
    elif backend.decoder is not None and any(token[:1] in SPACES for token in vocabulary):
        for token, number in vocabulary.items():
            marks[number] = (
                CONTINUES if token == tokenizer.unk_token else mark_of(token, backend.decoder.decode([token]))
            )
    return marks


def mark_of(token: str, text: str) -> int:
    """Return what is known of a token that shows a text, by a tokenizer that marks spaces."""
    if not any(letter.isprintable() and not letter.isspace() for letter in text):
        return BLANK
    letters = text.strip()
    first, last = (letter.isalnum() or letter == "\ufffd" for letter in (letters[0], letters[-1]))
    has_space = token[0] in SPACES or text[0].isspace()
    continues = first and not has_space and not UNSPACED.match(letters)
    closes = not last or UNSPACED.match(letters[-1]) is not None
    return CONTINUES * continues + CLOSES * closes
