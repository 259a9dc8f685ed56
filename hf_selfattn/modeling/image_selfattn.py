# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""SelfAttn models for images: the same heads on the feature maps or patches of any backbone that reads pixels.

Shape suffixes: B images, N positions of a map and of what stands before it, D features, L layers.
"""

import copy
import json
import math
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import auto_docstring, can_return_tuple

from .backbone_selfattn import (
    BackboneFeatures,
    as_sequence,
    pooler_options,
    shed_unread_weights,
)
from .base_selfattn import SelfAttnClassifier, SelfAttnMediaModel
from .configuration_selfattn import SelfAttnConfig
from .outputs_selfattn import CLASSES, FEATURE_MASK, FEATURES, NUM_ITEMS, SelfAttnClassifierOutput, SelfAttnModelOutput
from .subsequences_selfattn import right_pad_order
from .tiles_selfattn import cut_tile, merge_tiles, plan_tiles, real_sizes

TILES_AT_ONCE = 32  # so many are in the backbone at once, however large an image is
# The axes of (B, C, H, W) along which an image is turned over, for each time that it is read.
MIRRORED = {"none": ((),), "sides": ((), (3,)), "both": ((), (3,), (2,), (2, 3))}
PIXEL_MASK = r"""
pixel_mask (`torch.Tensor` of shape `(batch_size, height, width)`, *optional*):
    1 at the pixels of an image, 0 at padding, which stands at the right and below.
"""


@dataclass(frozen=True)
class BackboneShape:
    """What a backbone makes of a square image."""

    widths: list[int]  # of all layers that it shows
    map_size: tuple[int, int]  # of the last layer, in cells
    maps: list[tuple[int, int]]  # of all layers, in cells
    last_prefix: int  # how many tokens stand before the map in the last layer, such as CLS
    num_prefix: int  # and in the features of all layers that are read
    read: set[str]  # the parameters that the last layer depends on
    run: set[str]  # the weights of modules that run


SHAPES: dict[str, BackboneShape] = {}  # what was measured before


def measure_backbone(backbone_config: PreTrainedConfig, num_layers: int, side: int) -> BackboneShape:
    """Return what a backbone makes of an image of so many pixels a side, by a run without numbers (device meta)."""
    known = json.dumps([backbone_config.to_dict(), num_layers, side], default=str, sort_keys=True)
    if known not in SHAPES:
        config = copy.deepcopy(backbone_config)
        with torch.device("meta"), torch.enable_grad():
            backbone = AutoModel.from_config(config, attn_implementation="eager", **pooler_options(config)).eval()
            backbone.requires_grad_(True)
            ran: set[nn.Module] = {backbone}
            for module in backbone.modules():
                module.register_forward_pre_hook(lambda module, _: ran.add(module))
            pixels = torch.zeros(1, getattr(config, "num_channels", None) or 3, side, side, dtype=backbone.dtype)
            outputs = run_on_images(backbone, pixels, output_hidden_states=True)
            outputs.last_hidden_state.sum().backward()
        layers, map_size = shown_layers(outputs), square_map(outputs, config, side)
        if num_layers > len(layers):
            raise ValueError(
                f"num_mixed_layers={num_layers} is more than the backbone {config.model_type!r} shows: {len(layers)}."
            )
        widths = [channels_of(layer) for layer in layers]
        last_prefix = as_sequence(layers[-1]).shape[1] - math.prod(map_size)
        mixed = layers_as_sequences(layers[-num_layers:], map_size, last_prefix, max(widths), map_size)
        read = {name for name, weight in backbone.named_parameters() if weight.grad is not None}
        run = {name for name in backbone.state_dict() if backbone.get_submodule(name.rpartition(".")[0]) in ran}
        maps, num_prefix = maps_of(layers, map_size), mixed[-1].shape[1] - math.prod(map_size)
        SHAPES[known] = BackboneShape(widths, map_size, maps, last_prefix, num_prefix, read, run)
    return SHAPES[known]


def refuse_other_tiles(config: SelfAttnConfig, map_size: tuple[int, int]) -> None:
    """Raise an error for tiles that are no whole number of a backbone's cells."""
    side = cast(int, config.subsequence_length)
    twice = tuple(2 * cells for cells in map_size)
    if config.backbone_config.model_type != "timm_wrapper":  # some of which read one size only
        twice = measure_backbone(config.backbone_config, config.num_mixed_layers, 2 * side).map_size
    if side % map_size[0] or map_size[0] != map_size[1] or twice != (2 * map_size[0], 2 * map_size[0]):
        raise ValueError(
            f"subsequence_length={side}, the side of a tile, is no whole number of cells of the backbone "
            f"{config.backbone_config.model_type!r}, which makes {map_size} of it. Take a multiple of a cell, most "
            f"often of 16 or 32: {max(side // 32, 1) * 32}."
        )


def run_on_images(backbone: PreTrainedModel, pixel_values: Tensor, **options: Any) -> Any:
    """Return what a backbone answers to images (B, C, H, W) of any size that it can read."""
    if "interpolate_pos_encoding" in signature(backbone.forward).parameters:
        options["interpolate_pos_encoding"] = True
    outputs = backbone(pixel_values, return_dict=True, **options)
    if getattr(getattr(backbone, "timm_model", None), "output_fmt", "NCHW") == "NHWC":
        outputs.last_hidden_state = outputs.last_hidden_state.permute(0, 3, 1, 2)
    return outputs


def channels_of(layer: Tensor) -> int:
    """Return the number of features of a map (B, D, H, W) or a sequence (B, N, D)."""
    return layer.shape[1] if layer.dim() == 4 else layer.shape[-1]


def hidden_maps(outputs: Any) -> list[Tensor]:
    """Return a backbone's hidden layers, as maps where it has both forms."""
    return list(getattr(outputs, "reshaped_hidden_states", None) or outputs.hidden_states or ())


def shown_layers(outputs: Any) -> list[Tensor]:
    """Return the layers that a backbone shows, the last as it answers it: often normalised."""
    earlier, last = hidden_maps(outputs), outputs.last_hidden_state
    if earlier and channels_of(earlier[-1]) == channels_of(last) and places_of(earlier[-1]) <= places_of(last):
        earlier = earlier[:-1]  # the same layer
    return [*earlier, last]


def places_of(layer: Tensor) -> int:
    """Return the number of cells or tokens of a layer."""
    return layer.shape[2] * layer.shape[3] if layer.dim() == 4 else layer.shape[1]


def square_map(outputs: Any, config: PreTrainedConfig, side: int) -> tuple[int, int]:
    """Return the size in cells of the map that the last layer of a square image is."""
    last, earlier = outputs.last_hidden_state, hidden_maps(outputs)
    for layer in (last, *earlier[-1:]):
        if layer.dim() == 4 and places_of(layer) <= places_of(last):
            return layer.shape[2], layer.shape[3]
    patch = getattr(config, "patch_size", None)
    if patch is None:
        return (math.isqrt(places_of(last)),) * 2
    height, width = (patch, patch) if isinstance(patch, int) else patch[-2:]
    return side // height, side // width


def maps_of(layers: list[Tensor], map_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the sizes in cells of layers, of which sequences are maps of `map_size`."""
    return [(layer.shape[2], layer.shape[3]) if layer.dim() == 4 else map_size for layer in layers]


def layers_as_sequences(
    layers: list[Tensor], map_size: tuple[int, int], last_prefix: int, width: int, target: tuple[int, int]
) -> tuple[Tensor, ...]:
    """Return layers as sequences (B, N, D) in the layout of the last one, or of another map.

    Larger maps are averaged down to that size, smaller ones interpolated; narrower layers fill the first of the D
    channels. What stands before the map is left out where not every layer has it.

    Args:
        map_size: of the last layer, in cells.
        target: of the map to be returned, in cells.
    """
    num_cells = math.prod(map_size)
    sequences = []
    for layer in layers:
        if layer.dim() == 3 and layer.shape[1] not in (num_cells, last_prefix + num_cells):
            raise ValueError(
                f"A layer of {layer.shape[1]} tokens cannot be mixed with the last one's map of {map_size} cells, "
                "since it does not say where its tokens stand. Take num_mixed_layers=1."
            )
        if layer.dim() == 3 and target != map_size:
            layer = layer[:, -num_cells:].transpose(1, 2).unflatten(2, map_size)
        if layer.dim() == 4 and tuple(layer.shape[2:]) != target:
            layer = resized_map(layer, target)
        sequence = as_sequence(layer)
        sequences.append(F.pad(sequence, (0, width - sequence.shape[-1])))
    num_tokens = min(sequence.shape[1] for sequence in sequences)
    return tuple(sequence[:, sequence.shape[1] - num_tokens :] for sequence in sequences)


def resized_map(layer: Tensor, target: tuple[int, int]) -> Tensor:
    """Return a map (B, D, H, W) of another size in cells."""
    if layer.shape[2] * layer.shape[3] > math.prod(target):
        return F.adaptive_avg_pool2d(layer, target)
    return F.interpolate(layer, target, mode="bilinear", align_corners=False)


def turned_back(layer: Tensor, map_size: tuple[int, int], axes: tuple[int, ...]) -> Tensor:
    """Return a layer (B, N, D) of mirrored images with each cell where it stands in the image."""
    if not axes:
        return layer
    before, cells = layer.split((layer.shape[1] - math.prod(map_size), math.prod(map_size)), dim=1)
    turned = cells.unflatten(1, map_size).flip([axis - 1 for axis in axes])
    return torch.cat([before, turned.flatten(1, 2)], dim=1)


@dataclass
class ImageFeatures:
    """What the heads read of images of one size."""

    layers: tuple[Tensor, ...]  # (B, N, D)
    map_size: tuple[int, int]
    attentions: tuple[Tensor, ...] | None = None


# Its `__init__` calls that of a model which calls `post_init`. trf-ignore: TRF013
@auto_docstring
class SelfAttnImageModel(SelfAttnMediaModel):
    main_input_name = "pixel_values"
    input_names = ("pixel_values", "pixel_mask", "features", "feature_mask")

    def __init__(self, config: SelfAttnConfig, **options: Any):
        side, num_layers = cast(int, config.subsequence_length), config.num_mixed_layers
        shape = measure_backbone(config.backbone_config, num_layers, side)
        config.note_layers(shape.widths[-num_layers:])
        super().__init__(config, **options)
        shed_unread_weights(self.backbone, shape.read, shape.run)
        self.num_prefix_tokens, self.last_prefix = shape.num_prefix, shape.last_prefix
        # Pixels of a cell's side, in the map that is returned and in that of the last layer.
        self.cell = self.last_cell = side // shape.map_size[0]
        self.finest_cell, self.reads_finest = side // max(shape.maps[-num_layers:], key=math.prod)[0], False
        if config.tiles:
            refuse_other_tiles(config, shape.map_size)

    def train(self, mode: bool = True) -> "SelfAttnImageModel":
        super().train(mode)
        for module in self.backbone.modules():
            if getattr(module, "running_mean", None) is not None:  # frozen, it keeps its statistics, too
                module.train(mode and any(weight.requires_grad for weight in module.parameters()))
            if isinstance(getattr(module, "base_layer", None), nn.Conv2d):  # under an adapter; MobileNet reads these
                for name in ("stride", "kernel_size", "dilation"):
                    setattr(module, name, getattr(module.base_layer, name))
        return self

    def read_finest(self) -> None:
        """Let the layers that are mixed meet in a map as fine as the finest of them, where small objects show."""
        self.cell, self.reads_finest = self.finest_cell, True

    @can_return_tuple
    @auto_docstring(custom_args=PIXEL_MASK + FEATURES + FEATURE_MASK)
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        feature_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor] | SelfAttnModelOutput:
        inputs = {"pixel_values": pixel_values, "pixel_mask": pixel_mask}
        return self.read_input(kwargs, **inputs, features=features, feature_mask=feature_mask)[0]

    def read_media(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None = None, *, record: bool
    ) -> BackboneFeatures:
        """Return what the heads read of images, those of each size read together."""
        pixel_values = pixel_values.to(self.backbone.dtype)
        if pixel_mask is None and not self.config.tiles:
            return self._of_one_size(pixel_values, record)
        sizes = real_sizes(pixel_values, pixel_mask)
        if self.config.tiles:
            return self._laid_out(self._read_tiles(pixel_values, sizes, record))
        if len(set(sizes)) == 1:
            return self._of_one_size(pixel_values[:, :, : sizes[0][0], : sizes[0][1]], record)
        return self._laid_out(self._read_each_size(pixel_values, sizes, record))

    def _of_one_size(self, pixel_values: Tensor, record: bool) -> BackboneFeatures:
        """Return the features of images without padding."""
        read = self._read_images(pixel_values, record)
        fields: dict[str, Any] = {"map_size": read.map_size, "num_prefix_tokens": self.num_prefix_tokens}
        return BackboneFeatures(read.layers, hidden_states=read.layers, attentions=read.attentions, **fields)

    def _read_images(self, pixel_values: Tensor, record: bool) -> ImageFeatures:
        """Read images of one size, all of it real: the mean of their features as they are and mirrored."""
        reads = [self._read_mirrored(pixel_values, axes, record) for axes in MIRRORED[self.config.mirrored]]
        if len(reads) == 1:
            return reads[0]
        layers = zip(*(read.layers for read in reads), strict=True)
        return replace(reads[0], layers=tuple(torch.stack(of_layer).mean(dim=0) for of_layer in layers))

    def _read_mirrored(self, pixel_values: Tensor, axes: tuple[int, ...], record: bool) -> ImageFeatures:
        """Run the backbone on images that are turned over along some axes; return what stands at each place."""
        every_layer = self.config.num_mixed_layers > 1
        options = {"output_attentions": True} if record else {}
        pixel_values = pixel_values.flip(axes) if axes else pixel_values
        outputs = run_on_images(self.backbone, pixel_values, output_hidden_states=every_layer, **options)
        map_size = self._map_size(outputs.last_hidden_state, pixel_values.shape[2:])
        layers = shown_layers(outputs)[-self.config.num_mixed_layers :]
        target = max(maps_of(layers, map_size), key=math.prod) if self.reads_finest else map_size
        sequences = layers_as_sequences(layers, map_size, self.last_prefix, self.config.hidden_size, target)
        turned = tuple(turned_back(layer, target, axes) for layer in sequences)
        return ImageFeatures(turned, target, outputs.attentions if record else None)

    def _map_size(self, last: Tensor, pixels: tuple[int, ...]) -> tuple[int, int]:
        """Return height and width in cells of a backbone's last layer."""
        if last.dim() == 4:
            return last.shape[2], last.shape[3]
        num_cells = last.shape[1] - self.last_prefix
        for height, width in (
            (pixels[0] // self.last_cell, pixels[1] // self.last_cell),
            (math.ceil(pixels[0] / self.last_cell), math.ceil(pixels[1] / self.last_cell)),
        ):
            if height * width == num_cells:
                return height, width
        raise ValueError(
            f"The backbone makes {num_cells} places of an image of {tuple(pixels)} pixels, which are no map in cells "
            f"of {self.last_cell} pixels. Give images whose sides are multiples of {self.last_cell}."
        )

    def _read_each_size(self, pixel_values: Tensor, sizes: list[tuple[int, int]], record: bool) -> list[ImageFeatures]:
        """Read images without their padding, those of one size together; return the features of each image."""
        if record:
            raise ValueError("Attentions of images of different sizes have different shapes. Give one size at a time.")
        found: dict[int, ImageFeatures] = {}
        for height, width in sorted(set(sizes)):
            rows = [row for row, size in enumerate(sizes) if size == (height, width)]
            read = self._read_images(pixel_values[rows, :, :height, :width], record)
            for place, row in enumerate(rows):
                found[row] = ImageFeatures(tuple(layer[place] for layer in read.layers), read.map_size)
        return [found[row] for row in range(len(sizes))]

    def _read_tiles(self, pixel_values: Tensor, sizes: list[tuple[int, int]], record: bool) -> list[ImageFeatures]:
        """Read images in tiles, some at once; return the merged features of each image."""
        if record:
            raise ValueError("Attentions are not returned of images in tiles. Open the model with tiles=False.")
        tile, shared = self.window, cast(int, self.config.subsequence_stride)
        plans = [plan_tiles(size, tile, shared, self.cell) for size in sizes]
        places = [(row, corner) for row, plan in enumerate(plans) for corner in plan.corners(self.cell)]
        images = [image[:, :height, :width] for image, (height, width) in zip(pixel_values, sizes, strict=True)]
        runs = []
        for start in range(0, len(places), TILES_AT_ONCE):
            tiles = [cut_tile(images[row], corner, tile) for row, corner in places[start : start + TILES_AT_ONCE]]
            runs.append(self._read_images(torch.stack(tiles), record).layers)
        layers = [torch.cat(parts) for parts in zip(*runs, strict=True)]
        counts = [len(plan.corners(self.cell)) for plan in plans]
        of_images = zip(*(layer.split(counts) for layer in layers), strict=True)
        return [
            ImageFeatures(tuple(merge_tiles(part, plan, self.num_prefix_tokens) for part in parts), plan.map_size)
            for plan, parts in zip(plans, of_images, strict=True)
        ]

    def _laid_out(self, images: list[ImageFeatures]) -> BackboneFeatures:
        """Return the features (N, D) of images as right-padded rows, whose order is that of the map that holds all."""
        height, width = (max(image.map_size[side] for image in images) for side in (0, 1))
        num_positions = self.num_prefix_tokens + height * width
        layers = tuple(
            torch.stack([F.pad(layer, (0, 0, 0, num_positions - len(layer))) for layer in of_layer])
            for of_layer in zip(*(image.layers for image in images), strict=True)
        )
        fields: dict[str, Any] = {"map_size": (height, width), "num_prefix_tokens": self.num_prefix_tokens}
        if all(image.map_size == (height, width) for image in images):
            return BackboneFeatures(layers, hidden_states=layers, **fields)
        mask_BHW = layers[0].new_zeros(len(images), height, width, dtype=torch.bool)
        for row, image in enumerate(images):
            mask_BHW[row, : image.map_size[0], : image.map_size[1]] = True
        mask_BT = F.pad(mask_BHW.flatten(1), (self.num_prefix_tokens, 0), value=True)
        _, inverse_BT = right_pad_order(mask_BT)
        return BackboneFeatures(layers, mask_BT.sum(dim=1), inverse_BT, layers, **fields)


# Its `__init__` calls that of a model which calls `post_init`. trf-ignore: TRF013
@auto_docstring
class SelfAttnForImageClassification(SelfAttnClassifier):
    model_class = SelfAttnImageModel
    main_input_name = "pixel_values"

    def __init__(self, config: SelfAttnConfig, **options: Any):
        super().__init__(config, **options)
        if config.pooling == "cls" and self.model.num_prefix_tokens == 0:
            raise ValueError(
                f"pooling='cls' reads a token that the backbone {config.backbone_config.model_type!r} does not put "
                "before its map in every layer that is mixed. Take 'class_query' or 'mean'."
            )

    @can_return_tuple
    @auto_docstring(custom_args=PIXEL_MASK + CLASSES + NUM_ITEMS + FEATURES + FEATURE_MASK)
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        features: torch.Tensor | None = None,
        feature_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor] | SelfAttnClassifierOutput:
        inputs = {"pixel_values": pixel_values, "pixel_mask": pixel_mask}
        inputs |= {"features": features, "feature_mask": feature_mask}
        return self.classify(inputs, labels, num_items_in_batch, kwargs)


__all__ = ["SelfAttnForImageClassification", "SelfAttnImageModel"]
