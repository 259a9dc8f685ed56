"""The layers that `attention.py` measures: (1, N, D) features to (1, N, D), projections included, D = 384.

Each peer has the settings that its package starts with, apart from width, length and heads: 12 heads of 32 as MiniLM.
The peers from the package registry (`linformer performer-pytorch reformer-pytorch routing-transformer
sinkhorn-transformer`) are left out where they are not installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BigBirdConfig,
    BigBirdModel,
    LongformerConfig,
    LongformerModel,
    NystromformerConfig,
    NystromformerModel,
    ReformerConfig,
    ReformerModel,
)

from hf_selfattn import SelfAttnConfig
from hf_selfattn.cpu_attention import CPU_ATTENTION as NAME
from hf_selfattn.modeling.attention_selfattn import GroupedAttentionHead, head_masks

WIDTH, HEADS, HEAD_DIM = 384, 12, 32
Layer = Callable[[Tensor], Tensor]


class FullAttention(nn.Module):
    """Multi-head attention by `scaled_dot_product_attention`, the reference of all ratios."""

    def __init__(self, heads: int = HEADS):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(WIDTH, 3 * heads * HEAD_DIM)
        self.output = nn.Linear(heads * HEAD_DIM, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        return self.output(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class InducedAttention(nn.Module):
    """Attention through learned inducing points (Lee et al., Set Transformer, 2019)."""

    def __init__(self, num_points: int = 64):
        super().__init__()
        self.points = nn.Parameter(torch.randn(1, HEADS, num_points, HEAD_DIM))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, HEADS, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        induced = F.scaled_dot_product_attention(self.points, key, value)
        return self.output(F.scaled_dot_product_attention(query, induced, induced).transpose(1, 2).flatten(2))


class GroupedAttention(nn.Module):
    """The grouped attention of this package, its masks made anew in each call as the model does.

    Args:
        implementation: which attention it computes with; by default the one that the recipes take on a CPU.
    """

    def __init__(self, heads: int = 4, implementation: str = NAME, **options: int | str):
        super().__init__()
        backbone = BertConfig(hidden_size=WIDTH, num_attention_heads=HEADS)
        config = SelfAttnConfig(backbone_config=backbone, num_grouped_attention_heads=heads, **options)
        config._attn_implementation = implementation
        self.config = config
        self.head = GroupedAttentionHead(config)
        self.head.prototypes.copy_(F.normalize(torch.randn_like(self.head.prototypes), dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(x, head_masks(self.config, x, None))[0]
        return output

    def flops(self, num_tokens: int) -> float:
        """Return the floating-point operations of the products in a forward pass: two for each multiplication."""
        c = self.config
        H, E, U, W = c.num_grouped_attention_heads, c.head_dim, c.group_dim, c.block_size
        value_dim = E + U - 1
        projections = WIDTH * (H * (2 * E + value_dim) + U) + H * value_dim * WIDTH
        num_blocks = -(-num_tokens // W)
        num_keys = W + (num_blocks if num_blocks > 1 else 0)
        similarity = H * c.num_groups * U
        linear = 2 * H * (E + U) * (E + U + value_dim) if num_blocks > 1 else 0
        return 2.0 * num_tokens * (projections + similarity + linear + H * num_keys * 2 * (E + U))


def longformer(num_tokens: int) -> tuple[nn.Module, Layer]:
    """Longformer (Beltagy et al., 2020): a window of 512 tokens and one global token."""
    config = LongformerConfig(hidden_size=WIDTH, num_attention_heads=HEADS, num_hidden_layers=1, vocab_size=8)
    layer = LongformerModel(config).eval().encoder.layer[0].attention
    is_global = torch.zeros(1, num_tokens, dtype=torch.bool)
    is_global[:, 0] = True
    mask = torch.zeros(1, num_tokens).masked_fill(is_global, 1.0)

    def call(x: Tensor) -> Tensor:
        output: Tensor = layer(x, mask.to(x.dtype), mask < 0, is_global, True)[0]
        return output

    return layer, call


def big_bird(num_tokens: int) -> tuple[nn.Module, Layer]:
    """BigBird (Zaheer et al., 2020): blocks of 64, three random ones."""
    config = BigBirdConfig(hidden_size=WIDTH, num_attention_heads=HEADS, num_hidden_layers=1, vocab_size=128)
    config.max_position_embeddings = num_tokens
    model = BigBirdModel(config).eval()
    layer = model.encoder.layer[0].attention

    def call(x: Tensor) -> Tensor:
        ones = torch.ones(1, num_tokens, dtype=x.dtype)
        blocked, band, rows, columns = model.create_masks_for_block_sparse_attn(ones, config.block_size)
        masks = {"band_mask": band, "from_mask": rows, "to_mask": columns}
        output: Tensor = layer(x, from_blocked_mask=blocked, to_blocked_mask=blocked, **masks)[0]
        return output

    return layer, call


def nystromformer(num_tokens: int) -> tuple[nn.Module, Layer]:
    """Nystromformer (Xiong et al., 2021): 64 landmarks."""
    config = NystromformerConfig(hidden_size=WIDTH, num_attention_heads=HEADS, num_hidden_layers=1, vocab_size=8)
    config.segment_means_seq_len = num_tokens
    layer = NystromformerModel(config).eval().encoder.layer[0].attention
    return layer, lambda x: layer(x)[0]


def reformer(num_tokens: int) -> tuple[nn.Module, Layer]:
    """Reformer (Kitaev et al., 2020): one hash round, chunks of 64."""
    config = ReformerConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        attention_head_size=HEAD_DIM,
        attn_layers=["lsh"],
        axial_pos_embds=False,
        max_position_embeddings=num_tokens,
        num_buckets=2 * num_tokens // 64,
        vocab_size=8,
    )
    layer = ReformerModel(config).eval().encoder.layers[0].attention
    return layer, lambda x: layer(x).hidden_states


def packaged(module: str, name: str, **options: object) -> tuple[nn.Module, Layer]:
    """Return a layer of another package."""
    layer = getattr(import_module(module), name)(**options)

    def call(x: Tensor) -> Tensor:
        output = layer(x)
        return output[0] if isinstance(output, tuple) else output

    return layer, call


def linformer(num_tokens: int) -> tuple[nn.Module, Layer]:
    """Linformer (Wang et al., 2020): keys and values projected to 256 places."""
    return packaged("linformer", "LinformerSelfAttention", dim=WIDTH, seq_len=num_tokens, heads=HEADS)


def performer(num_tokens: int) -> tuple[nn.Module, Layer]:
    """Performer (Choromanski et al., 2021)."""
    return packaged("performer_pytorch", "SelfAttention", dim=WIDTH, heads=HEADS, dim_head=HEAD_DIM)


def reformer_pytorch(num_tokens: int) -> tuple[nn.Module, Layer]:
    """Reformer in another package: eight hash rounds, buckets of 64."""
    return packaged("reformer_pytorch", "LSHSelfAttention", dim=WIDTH, heads=HEADS)


def routing_transformer(num_tokens: int) -> tuple[nn.Module, Layer]:
    """Routing Transformer (Roy et al., 2021): k-means clusters of 128 in all heads."""
    options = {"dim": WIDTH, "depth": 1, "max_seq_len": num_tokens, "heads": HEADS}
    name = "routing_transformer.routing_transformer"
    return packaged(name, "SelfAttention", **options, local_attn_heads=0, window_size=128)


def sinkhorn_transformer(num_tokens: int) -> tuple[nn.Module, Layer]:
    """Sinkhorn Transformer (Tay et al., 2020): buckets of 64."""
    options = {"dim": WIDTH, "heads": HEADS, "max_seq_len": num_tokens, "bucket_size": 64}
    return packaged("sinkhorn_transformer", "SinkhornSelfAttention", **options)


def own(layer: nn.Module) -> tuple[nn.Module, Layer]:
    """Return a layer of this file as the peers' functions do."""
    return layer, layer


LAYERS: dict[str, Callable[[int], tuple[nn.Module, Layer]]] = {
    "full": lambda num_tokens: own(FullAttention()),
    "grouped": lambda num_tokens: own(GroupedAttention()),
    "grouped, blocks of 128": lambda num_tokens: own(GroupedAttention(block_size=128)),
    "full, 4 heads": lambda num_tokens: own(FullAttention(heads=4)),
    "grouped, 12 heads": lambda num_tokens: own(GroupedAttention(heads=HEADS)),
    "inducing points": lambda num_tokens: own(InducedAttention()),
    "longformer": longformer,
    "big_bird": big_bird,
    "nystromformer": nystromformer,
    "reformer": reformer,
    "linformer": linformer,
    "performer": performer,
    "reformer-pytorch": reformer_pytorch,
    "routing-transformer": routing_transformer,
    "sinkhorn-transformer": sinkhorn_transformer,
}


def build_layer(name: str, num_tokens: int, dtype: torch.dtype) -> tuple[nn.Module, Layer]:
    """Return a layer of a name in `LAYERS`, ready to be timed, and how it is called.

    Raises:
        ImportError: if its package is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers' packages use what torch has deprecated
        layer, call = LAYERS[name](num_tokens)
    return layer.to(dtype), call
