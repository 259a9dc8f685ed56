"""Tiny random backbones, models, batches and a tokenizer: what the tests of the model and of the recipes stand on."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, trainers
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace, Sequence, Whitespace, WhitespaceSplit
from tokenizers.processors import RobertaProcessing, TemplateProcessing
from torch import Tensor
from transformers import (
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from hf_selfattn import (
    SelfAttnConfig,
    SelfAttnForSequenceClassification,
    SelfAttnForTokenClassification,
    SelfAttnModel,
)

WINDOW = 32
VOCAB_SIZE = 99
HIDDEN_SIZE = 32
CLS, SEP, FIRST_WORD = 3, 4, 5

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HIDDEN_SIZE,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
}

# Position embeddings of RoBERTa-likes begin at pad_token_id + 1.
BACKBONES: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**_SIZES, max_position_embeddings=WINDOW),
    "roberta": RobertaConfig(**_SIZES, max_position_embeddings=WINDOW + 2, pad_token_id=1, type_vocab_size=1),
    "xlm-roberta": XLMRobertaConfig(**_SIZES, max_position_embeddings=WINDOW + 2, pad_token_id=1, type_vocab_size=1),
    "distilbert": DistilBertConfig(
        vocab_size=VOCAB_SIZE, dim=HIDDEN_SIZE, n_layers=2, n_heads=4, hidden_dim=37, max_position_embeddings=WINDOW
    ),
    "mpnet": MPNetConfig(**_SIZES, max_position_embeddings=WINDOW + 2, pad_token_id=1),
    "electra": ElectraConfig(**_SIZES, embedding_size=16, max_position_embeddings=WINDOW),
    "deberta-v2": DebertaV2Config(
        **_SIZES,
        max_position_embeddings=WINDOW,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        type_vocab_size=0,
    ),
    "modernbert": ModernBertConfig(
        **_SIZES,
        max_position_embeddings=WINDOW,
        local_attention=8,
        pad_token_id=0,
        bos_token_id=CLS,
        eos_token_id=SEP,
        cls_token_id=CLS,
        sep_token_id=SEP,
    ),
}

TASKS: dict[str, tuple[type, dict[str, Any]]] = {
    "model": (SelfAttnModel, {}),
    "single_label": (
        SelfAttnForSequenceClassification,
        {"num_labels": 3, "problem_type": "single_label_classification"},
    ),
    "multi_label": (
        SelfAttnForSequenceClassification,
        {"num_labels": 3, "problem_type": "multi_label_classification"},
    ),
    "regression": (SelfAttnForSequenceClassification, {"num_labels": 1, "problem_type": "regression"}),
    "token": (SelfAttnForTokenClassification, {"num_labels": 5}),
}


def tiny_config(family: str = "bert", **options: Any) -> SelfAttnConfig:
    """Return a configuration of a tiny model whose windows hold 30 tokens of text and share 4.

    Args:
        family: a key of `BACKBONES`.
        options: fields of the configuration that differ.
    """
    sizes: dict[str, Any] = {
        "num_self_attention_heads": 2,
        "num_grouped_attention_heads": 3,
        "head_dim": 8,
        "group_dim": 8,
        "num_groups": 4,
        "block_size": 8,
        "attention_window": 16,
        "subsequence_stride": 4,
        "prefix_token_ids": [CLS],
        "suffix_token_ids": [SEP],
    }
    return SelfAttnConfig(backbone_config=deepcopy(BACKBONES[family]), **{**sizes, **options})


def tiny_model(task: str = "single_label", family: str = "bert", seed: int = 0, **options: Any) -> Any:
    """Return a tiny random model in evaluation mode, its fusion weights far from 0 so that the heads count.

    Args:
        task: a key of `TASKS`.
        family: a key of `BACKBONES`.
        seed: of the weights.
        options: fields of the configuration that differ.
    """
    torch.manual_seed(seed)
    model_class, task_options = TASKS[task]
    return model_class(tiny_config(family, **{"fusion_init": 0.7, **task_options, **options})).eval()


def tiny_batch(
    lengths: list[int], family: str = "bert", padding_side: str = "right", framed: bool = True, seed: int = 1
) -> dict[str, Tensor]:
    """Return random input_ids and attention_mask (B, T) with T the greatest length.

    Args:
        lengths: tokens of each row, special tokens included. The words of a row depend on its place alone.
        family: a key of `BACKBONES`, for its padding id.
        padding_side: "right" or "left".
        framed: whether rows begin with CLS and end with SEP.
        seed: of the words.
    """
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    words = torch.randint(FIRST_WORD, VOCAB_SIZE, (len(lengths), 512), generator=generator)
    input_ids = torch.full((len(lengths), width), int(BACKBONES[family].pad_token_id or 0))
    attention_mask = torch.zeros_like(input_ids)
    for row, length in enumerate(lengths):
        start = 0 if padding_side == "right" else width - length
        input_ids[row, start : start + length] = words[row, :length]
        attention_mask[row, start : start + length] = 1
        if framed and length > 1:
            input_ids[row, start], input_ids[row, start + length - 1] = CLS, SEP
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def tiny_rows(lengths: list[int]) -> tuple[list[dict[str, Any]], Any]:
    """Rows without padding, and a collator that pads them with token 0."""
    batch = tiny_batch(lengths)
    rows = [{"input_ids": batch["input_ids"][i, :length]} for i, length in enumerate(lengths)]

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        ids = torch.nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row["input_ids"])) for row in rows], batch_first=True)
        return {"input_ids": ids, "attention_mask": mask.long()}

    return rows, collate


def tiny_labels(task: str, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the labels of a batch as keyword arguments; none for the model without a task.

    Args:
        task: a key of `TASKS`.
        batch: input_ids and attention_mask (B, T).
    """
    rows = len(batch["input_ids"])
    if task == "model":
        return {}
    if task == "single_label":
        return {"labels": torch.arange(rows) % 3}
    if task == "multi_label":
        return {"labels": (torch.arange(rows * 3).view(rows, 3) % 2).float()}
    if task == "regression":
        return {"labels": torch.arange(rows).float()}
    return {"labels": torch.where(batch["attention_mask"].bool(), batch["input_ids"] % 5, -100)}


def aligned(model: Any) -> Any:
    """Return a reopened model whose weights are copied to addresses that the allocator gives.

    A file's weights are mapped into memory at odd addresses, and the CPU's product of a matrix with one vector rounds
    by address in the last bit.

    Args:
        model: a model that `from_pretrained` opened.
    """
    for weight in (*model.parameters(), *model.buffers()):
        weight.data = weight.data.clone()
    return model


def main_output(outputs: Any) -> Tensor:
    """Return the features of the bare model or the logits of a task model.

    Args:
        outputs: what the model returned.
    """
    return outputs.logits if "logits" in outputs else outputs.last_hidden_state


@torch.no_grad()
def assert_rows_stand_alone(model: Any, lengths: list[int]) -> None:
    """Check that padding on either side and the other rows of a batch change nothing.

    Args:
        model: a model in evaluation mode.
        lengths: tokens of each row.
    """
    right, left = tiny_batch(lengths), tiny_batch(lengths, padding_side="left")
    from_right, from_left = main_output(model(**right)), main_output(model(**left))
    for row, number in enumerate(lengths):
        single = main_output(model(right["input_ids"][row : row + 1, :number]))[0]
        of_tokens = single.dim() == 2
        at_right = from_right[row, :number] if of_tokens else from_right[row]
        at_left = from_left[row, -number:] if of_tokens else from_left[row]
        torch.testing.assert_close(at_right, single, atol=1e-5, rtol=0)
        torch.testing.assert_close(at_left, single, atol=1e-5, rtol=0)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of the words w5 … w98 that frames texts and pairs and cuts nothing."""
    special = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[CLS]": CLS, "[SEP]": SEP}
    vocabulary = special | {f"w{number}": number for number in range(FIRST_WORD, VOCAB_SIZE)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def tiny_wordpiece() -> PreTrainedTokenizerFast:
    """Return a tokenizer of the words w5 … w84, the pieces ##a … ##l and the marks - and . in `VOCAB_SIZE` ids."""
    special = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[CLS]": CLS, "[SEP]": SEP}
    pieces = [
        *(f"w{number}" for number in range(FIRST_WORD, 85)),
        *(f"##{letter}" for letter in "abcdefghijkl"),
        "-",
        ".",
    ]
    vocabulary = special | {piece: FIRST_WORD + number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def family_tokenizer(family: str, texts: list[str], vocab_size: int = 300) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the kind that a family has, trained on texts.

    Args:
        family: `bert` (WordPiece), `roberta` and `modernbert` (byte-level BPE, whose offsets leave out a space before
            a word or have it), `xlm-roberta` and `deberta-v2` (SentencePiece, likewise).
        texts: what it is trained on.
        vocab_size: at most so many ids.
    """
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    options: dict[str, Any] = {"vocab_size": vocab_size, "special_tokens": special, "show_progress": False}
    if family == "bert":
        tokenizer = Tokenizer(WordPiece(unk_token="<unk>"))
        tokenizer.pre_tokenizer, tokenizer.decoder = BertPreTokenizer(), decoders.WordPiece()
        tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(**options))
    elif family in ("roberta", "modernbert"):
        tokenizer = Tokenizer(BPE())
        tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(**options, initial_alphabet=ByteLevel.alphabet())
        tokenizer.train_from_iterator(texts, trainer)
    else:
        pieces = Metaspace()
        tokenizer = Tokenizer(Unigram())
        tokenizer.pre_tokenizer = Sequence([WhitespaceSplit(), pieces]) if family == "xlm-roberta" else pieces
        tokenizer.decoder = decoders.Metaspace()
        tokenizer.train_from_iterator(texts, trainers.UnigramTrainer(**options, unk_token="<unk>"))
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    if family == "roberta":
        tokenizer.post_processor = RobertaProcessing(ends[1], ends[0], add_prefix_space=False, trim_offsets=True)
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="<mask>", **names)


def tiny_text(num_words: int, seed: int = 0) -> str:
    """Return a text of random words that `tiny_tokenizer` knows.

    Args:
        num_words: number of words, each one token.
        seed: of the words.
    """
    generator = torch.Generator().manual_seed(seed)
    return " ".join(f"w{n}" for n in torch.randint(FIRST_WORD, VOCAB_SIZE, (num_words,), generator=generator).tolist())
