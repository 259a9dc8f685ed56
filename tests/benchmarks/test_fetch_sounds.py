"""Fetching of sounds and of Whisper: small archives made here; the real ones where they were fetched before."""

from __future__ import annotations

import gzip
import io
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from small_archives import make_zip, rows
from transformers import AutoModel, AutoTokenizer, WhisperConfig, WhisperForConditionalGeneration

from benchmarks import fetch as fetching
from benchmarks.sources import sound_models, sounds
from hf_selfattn.data.sounds import open_sound

SPLITS = ("train", "validation", "test")


def wave(number: int, form: str = "WAV", seconds: float = 0.5) -> bytes:
    """A sound that no other number has."""
    file = io.BytesIO()
    samples = np.sin(np.arange(int(8000 * seconds)) * (0.05 + 0.002 * number)) / 2
    soundfile.write(file, samples, 8000, format=form)
    return file.getvalue()


def asterisk(folder: Path, language: str, lines: list[str]) -> list[Path]:
    """The two archives of a language, with a sound for each line."""
    text = "; a comment\n" + "\n".join(lines)
    place = f"./usr/share/asterisk/sounds/{sounds.VOICES[language]}"
    names = [line.partition(":")[0] for line in lines]
    first = {"en": 0, "es": 100, "fr": 200}[language]
    files = {f"{place}/{name}.wav": wave(first + number) for number, name in enumerate(names)}
    texts = {f"./usr/share/doc/asterisk/core-sounds-{language}.txt.gz": gzip.compress(text.encode())}
    return [make_zip(folder / f"{language}-texts.zip", texts), make_zip(folder / f"{language}-sounds.zip", files)]


def test_prompts_are_split_by_text(tmp_path: Path) -> None:
    lines = [f"p{number}: Please press {'abcdefghijklmnopqrst'[number // 2]}, now." for number in range(40)]
    lines += ["beep: (a tone)", "nine: press 9", "digits/end: that's all."]
    sounds.unpack_asterisk(asterisk(tmp_path, "en", lines), tmp_path)
    tested: list[str] = []
    for seed in range(3):
        texts = {part: {row["transcript"] for row in rows(tmp_path, part, seed)} for part in SPLITS}
        assert not texts["train"] & texts["validation"] and not (texts["train"] | texts["validation"]) & texts["test"]
        every = [row for part in SPLITS for row in rows(tmp_path, part, seed)]
        assert len(every) == 41 and "that's all" in {row["transcript"] for row in every}
        assert all(set(row["transcript"]) <= set("abcdefghijklmnopqrstuvwxyz' ") for row in every)
        assert all(len(open_sound(tmp_path / row["sound"], 16_000)) == 8000 for row in every)
        tested += [row["sound"] for row in rows(tmp_path, "test", seed)]
    assert len(tested) == len(set(tested))


def test_a_source_is_tested_that_was_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sounds, "MOST_CLIPS", 4)
    archives = [
        path
        for language in sounds.LANGUAGES
        for path in asterisk(tmp_path, language, [f"p{number}: word" for number in range(6)])
    ]
    stamps, objects, letters = {}, {}, {}
    for first, language in zip((300, 330, 360), sounds.LANGUAGES, strict=True):
        ending = "" if language == "en" else f"_{language}"
        for number in range(3):
            stamps[f"./usr/share/tuxpaint/stamps/a/{number}_desc{ending}.ogg"] = wave(first + number)
            objects[f"./usr/share/ktuberling/sounds/{language}/{number}.wav"] = wave(first + number + 5)
            letters[f"./usr/share/klettres/{language}/alpha/{number}.ogg"] = wave(first + number + 9)
        words = "".join(f'<sound name="x" file="{language}/{number}.wav"/>' for number in (0, 1, 2, 7))
        objects[f"./usr/share/ktuberling/sounds/{language}.soundtheme"] = f"<language>{words}</language>".encode()
    stamps["./usr/share/tuxpaint/stamps/a/0_desc_ca.ogg"] = wave(390)
    letters["./usr/share/klettres/en_GB/alpha/0.ogg"] = wave(391)
    letters["./usr/share/klettres/en_GB/alpha/1.ogg"] = wave(360 + 9)  # again what is French
    letters["./usr/share/klettres/en_GB/alpha/2.ogg"] = wave(392, seconds=11)
    parts = {"stamps": stamps, "objects": objects, "letters": letters}
    archives += [make_zip(tmp_path / f"{name}.zip", files) for name, files in parts.items()]
    sounds.unpack_languages(archives, tmp_path)
    for seed in range(12):
        found = {part: rows(tmp_path, part, seed) for part in SPLITS}
        of_part = {part: {row["source"] for row in found[part]} for part in SPLITS}
        assert of_part["test"] == {sounds.ORIGINS[seed // 3]}
        assert sorted(source for part in SPLITS for source in of_part[part]) == sorted(sounds.ORIGINS)
        every = [row for part in SPLITS for row in found[part]]
        assert Counter(row["source"] for row in every)["asterisk"] == 12
        assert all((tmp_path / row["sound"]).is_file() and row["label"] in row["sound"] for row in every)
    chosen = {tuple(sorted(row["source"] for row in rows(tmp_path, "validation", seed))) for seed in range(3)}
    assert len(chosen) == 3  # the three splits of a source differ in what chooses


def packed(model: WhisperForConditionalGeneration) -> bytes:
    """The weights of a Whisper as CTranslate2 packs them."""
    state, config = (
        {name.removeprefix("model."): value.numpy() for name, value in model.state_dict().items()},
        model.config,
    )
    arrays: dict[str, Any] = {"encoder/num_heads": np.array(config.encoder_attention_heads, dtype=np.int16)}

    def layer(source: str, *targets: str, norm: bool = False) -> None:
        for kind, own in zip(("weight", "bias"), ("gamma", "beta") if norm else ("weight", "bias"), strict=True):
            size = state[f"{targets[0]}.weight"].shape[:1]
            values = [state.get(f"{target}.{kind}", np.zeros(size, dtype=np.float32)) for target in targets]
            arrays[f"{source}/{own}"] = np.concatenate(values)

    for conv in ("conv1", "conv2"):
        layer(f"encoder/{conv}", f"encoder.{conv}")
    arrays["decoder/embeddings/weight"] = state["decoder.embed_tokens.weight"]
    for side in ("encoder", "decoder"):
        arrays[f"{side}/position_encodings/encodings"] = state[f"{side}.embed_positions.weight"]
        layer(f"{side}/layer_norm", f"{side}.layer_norm", norm=True)
        for number in range(2):
            theirs, ours = f"{side}/layer_{number}", f"{side}.layers.{number}"
            own = f"{ours}.self_attn"
            layer(f"{theirs}/self_attention/layer_norm", f"{own}_layer_norm", norm=True)
            layer(f"{theirs}/self_attention/linear_0", *(f"{own}.{letter}_proj" for letter in "qkv"))
            layer(f"{theirs}/self_attention/linear_1", f"{own}.out_proj")
            if side == "decoder":
                other = f"{ours}.encoder_attn"
                layer(f"{theirs}/attention/layer_norm", f"{other}_layer_norm", norm=True)
                layer(f"{theirs}/attention/linear_0", f"{other}.q_proj")
                layer(f"{theirs}/attention/linear_1", f"{other}.k_proj", f"{other}.v_proj")
                layer(f"{theirs}/attention/linear_2", f"{other}.out_proj")
            layer(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm", norm=True)
            for place in (0, 1):
                layer(f"{theirs}/ffn/linear_{place}", f"{ours}.fc{place + 1}")

    def name(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    types = {np.dtype(kind): number for number, kind in enumerate(sound_models.TYPES)}
    content = struct.pack("<I", 6) + name("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for key, array in arrays.items():
        shape = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        content += name(key) + shape + struct.pack("<BI", types[array.dtype], array.nbytes) + array.tobytes()
    return content + struct.pack("<I", 1) + name("decoder/projection/weight") + name("decoder/embeddings/weight")


def test_whisper_is_unpacked(tmp_path: Path) -> None:
    sizes = {
        f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in (("layers", 2), ("ffn_dim", 64))
    }
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(vocab_size=51864, d_model=16, **sizes, **heads)).eval()
    sound_models.write_whisper(packed(model), b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}', tmp_path)
    mine = WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert mine.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in mine.state_dict().items())
    assert mine.config.decoder_start_token_id == 50257  # of an English one


@pytest.mark.parametrize("damage", ["kind", "key bias", "layer"])
def test_what_is_no_whisper_is_refused(tmp_path: Path, damage: str) -> None:
    config = WhisperConfig(vocab_size=51865, d_model=8, encoder_attention_heads=2, decoder_attention_heads=2)
    config.encoder_layers = config.decoder_layers = 2
    config.encoder_ffn_dim = config.decoder_ffn_dim = 32
    content = packed(WhisperForConditionalGeneration(config))
    if damage == "kind":
        content = content.replace(b"WhisperSpec", b"WhisperXXXX")
    elif damage == "layer":
        content = content.replace(b"encoder/layer_norm/gamma", b"encoder/layer_norm/gamme")
    else:
        place = content.index(b"encoder/layer_0/self_attention/linear_0/bias")
        start = (
            place + len("encoder/layer_0/self_attention/linear_0/bias") + 1 + 1 + 4 + 1 + 4 + 8 * 4
        )  # the keys' own
        content = content[:start] + np.float32(1).tobytes() + content[start + 4 :]
    error = KeyError if damage == "layer" else ValueError
    with pytest.raises(error, match="gamma" if damage == "layer" else "WhisperSpec|keys have a bias"):
        sound_models.write_whisper(content, b"{}", tmp_path)


@pytest.mark.slow
def test_real_whisper_reads_a_prompt(tmp_path: Path) -> None:
    from transformers import WhisperFeatureExtractor

    folder, data = fetching.fetch("whisper-tiny-en"), fetching.fetch("asterisk")
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    row = next(row for row in rows(data, "test", 0) if 20 < len(row["transcript"]) < 40)
    extract = WhisperFeatureExtractor.from_pretrained(folder)
    inputs = extract(open_sound(data / row["sound"], 16_000), sampling_rate=16_000, return_tensors="pt")
    prefix = torch.tensor([[50257, 50362]])  # start of a transcript, without times
    tokens = model.generate(inputs.input_features, decoder_input_ids=prefix, max_new_tokens=30)
    text = AutoTokenizer.from_pretrained(folder).decode(tokens[0], skip_special_tokens=True)
    heard = "".join(letter for letter in text.lower() if letter.isalpha() or letter in " '").split()
    assert heard == row["transcript"].split()
    assert sum(parameter.numel() for parameter in AutoModel.from_pretrained(folder).encoder.parameters()) == 8_208_384
