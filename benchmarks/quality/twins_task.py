"""Documents of made-up features whose tags are stated far away, and the tagger that reads them.

Shape suffixes: B rows, N tokens, P pairs, D features, T width of a topic, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig

from hf_selfattn import SelfAttnConfig
from hf_selfattn.modeling.attention_selfattn import GroupedAttentionHead
from hf_selfattn.modeling.backbone_selfattn import BackboneFeatures
from hf_selfattn.modeling.grouping_selfattn import group_similarity, sort_by_group
from hf_selfattn.modeling.heads_selfattn import SelfAttnHeads, SelfAttnLayer

TASKS = ("twins", "elsewhere")
TOPIC_DIM, CLASSES, PAIRS = 16, 8, 32
FEATURES = 2 * TOPIC_DIM + CLASSES
NOT_ASKED = -100


@dataclass
class Documents:
    """A batch of documents.

    Attributes:
        features: (B, N, D), in turn T for a name or question, T for a definition, C for the class.
        labels: (B, N) class of the tokens that are asked, `NOT_ASKED` elsewhere.
        stated: (B, P) where the class of each pair can be read.
        asked: (B, P) where it is asked.
    """

    features: Tensor
    labels: Tensor
    stated: Tensor
    asked: Tensor


def relation(seed: int) -> Tensor:
    """Return the rotation (T, T) that makes the definition's vector of the question's."""
    random = torch.Generator().manual_seed(seed)
    rotation: Tensor = torch.linalg.qr(torch.randn(TOPIC_DIM, TOPIC_DIM, generator=random))[0]
    return rotation


def draw_documents(
    task: str, num_rows: int, num_tokens: int, rotation_TT: Tensor, random: torch.Generator
) -> Documents:
    """Return documents with `PAIRS` pairs of tokens, half of a document apart; all their vectors are new.

    In "twins" both tokens of a pair have one name, and every other token a name of its own. In "elsewhere" one asks
    with a vector and the other answers to the rotated vector, in other features; of the other tokens half ask and half
    answer, to vectors of their own. The class stands in the features of one token of each pair and nowhere else.
    """
    shape, half = (num_rows, num_tokens), num_tokens // 2
    row_B1 = torch.arange(num_rows)[:, None]
    place_BP = torch.rand(num_rows, half, generator=random).argsort(dim=1)[:, :PAIRS]
    is_late_BP = torch.rand(num_rows, PAIRS, generator=random) < 0.5
    stated_BP, asked_BP = place_BP + half * is_late_BP, place_BP + half * ~is_late_BP
    topic_BPT, word_BNT = topics(num_rows, PAIRS, random), topics(*shape, random)
    asks_BN1 = torch.ones(*shape, 1, dtype=torch.bool)
    answer_BPT = topic_BPT
    if task == "elsewhere":
        asks_BN1 = torch.rand(*shape, 1, generator=random) < 0.5
        asks_BN1[row_B1, asked_BP], asks_BN1[row_B1, stated_BP] = True, False
        answer_BPT = topic_BPT @ rotation_TT
    word_BNT[row_B1, asked_BP], word_BNT[row_B1, stated_BP] = topic_BPT, answer_BPT
    class_BP = torch.randint(CLASSES, (num_rows, PAIRS), generator=random)
    class_BNC = torch.zeros(*shape, CLASSES)
    class_BNC[row_B1, stated_BP, class_BP] = TOPIC_DIM**0.5
    labels_BN = torch.full(shape, NOT_ASKED)
    labels_BN[row_B1, asked_BP] = class_BP
    features_BND = torch.cat([word_BNT * asks_BN1, word_BNT * ~asks_BN1, class_BNC], dim=-1)
    return Documents(features_BND, labels_BN, stated_BP, asked_BP)


def topics(num_rows: int, count: int, random: torch.Generator) -> Tensor:
    """Return random vectors of one length, (B, count, T)."""
    return F.normalize(torch.randn(num_rows, count, TOPIC_DIM, generator=random), dim=-1) * TOPIC_DIM**0.5


class Tagger(nn.Module):
    """The package's heads straight on the features, and a linear classifier of tokens."""

    def __init__(self, **options: int | float | str):
        super().__init__()
        backbone = BertConfig(hidden_size=FEATURES, num_attention_heads=1)
        config = SelfAttnConfig(backbone_config=backbone, fusion_init=1.0, **options)
        config._attn_implementation = "sdpa"
        self.heads = SelfAttnHeads(config)
        for module in self.heads.modules():
            if isinstance(module, (GroupedAttentionHead, SelfAttnLayer, SelfAttnHeads)):
                module.reset_weights()
        self.classifier = nn.Linear(FEATURES, CLASSES)

    input_names = ("features",)

    @property
    def base_model(self) -> Tagger:
        """The module with backbone and heads, as models of the package have it."""
        return self

    def backbone_features(self, features: Tensor) -> BackboneFeatures:
        """Return the features: no backbone makes them."""
        return BackboneFeatures((features,))

    @property
    def grouped(self) -> GroupedAttentionHead | None:
        """The grouped attention of the one layer, or None where it has none."""
        head: GroupedAttentionHead | None = self.heads.layers[0].grouped_attention
        return head

    def set_block_size(self, block_size: int) -> None:
        """Cut sorted tokens into other blocks; no weight depends on them."""
        self.heads.config.block_size = block_size
        if self.grouped is not None:
            self.grouped.block_size = block_size

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits (B, N, C) of features (B, N, D)."""
        logits: Tensor = self.classifier(self.heads((features,)).features)
        return logits


@torch.no_grad()
def pairs_in_one_block(tagger: Tagger, documents: Documents) -> dict[str, float]:
    """Return the share of the pairs in one group and in one block, in the mean of the heads, and in any head."""
    layer, head = tagger.heads.layers[0], tagger.grouped
    num_rows, num_tokens, _ = documents.features.shape
    similarity = group_similarity(head.unit_metric(layer.grouped_norm(documents.features)), head.prototypes)
    lengths_B = torch.full((num_rows,), num_tokens)
    groups, _, inverse = sort_by_group(similarity, lengths_B)
    row_B1 = torch.arange(num_rows)[:, None]

    def together(ids_BHN: Tensor) -> Tensor:
        ids_BNH = ids_BHN.transpose(1, 2)
        return ids_BNH[row_B1, documents.stated] == ids_BNH[row_B1, documents.asked]

    in_block = together(inverse // head.block_size)
    return {
        "group": float(together(groups).float().mean()),
        "block": float(in_block.float().mean()),
        "block_of_any_head": float(in_block.any(dim=-1).float().mean()),
    }
