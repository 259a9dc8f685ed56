"""Windows of sound: where they are cut, that nothing is lost, and what long recordings cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_sounds import SOUND_BACKBONES, tiny_sound, tiny_sound_model
from torch.nn import functional as F
from transformers import ASTConfig, ASTFeatureExtractor, Wav2Vec2Config, WhisperConfig, WhisperFeatureExtractor

from hf_selfattn.modeling import attention_selfattn
from hf_selfattn.modeling.sound_windows_selfattn import ast_spectrogram, cut_sound, frame_grid, whisper_spectrogram

MAIN = ("wav2vec2", "hubert", "wavlm", "sew", "ast", "whisper")


@pytest.mark.parametrize("num_samples", [1, 400, 401, 479, 480, 719, 720, 16_000, 480_000])
def test_frames_are_counted_as_the_convolutions_make_them(num_samples: int) -> None:
    config = Wav2Vec2Config()
    grid = frame_grid(config)
    length = max(num_samples, grid.shortest)
    for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
        length = (length - kernel) // step + 1
    assert grid.num_frames(num_samples) == length and (grid.step, grid.reach) == (320, 400)
    assert frame_grid(WhisperConfig()).num_frames(num_samples) == -(-num_samples // 320)
    assert frame_grid(WhisperConfig()).longest == 480_000
    assert frame_grid(ASTConfig()).step == 1_600 and frame_grid(ASTConfig()).longest == 161_600


@pytest.mark.parametrize("family", ["wav2vec2", "whisper"])
@pytest.mark.parametrize("stride", [0, 2_000, 7_999, 15_000])
@pytest.mark.parametrize("num_samples", [1, 15_999, 16_000, 16_001, 16_161, 31_999, 90_007, 300_003])
def test_windows_give_every_frame_once(num_samples: int, stride: int, family: str) -> None:
    grid, sound = frame_grid(SOUND_BACKBONES[family]), torch.arange(num_samples)
    pieces = cut_sound(sound, grid, 16_000, stride)
    places = []
    for piece in pieces:
        start = int(piece.samples_T[0]) // grid.step
        assert int(piece.samples_T[0]) % grid.step == 0 and len(piece.samples_T) < 16_000 + grid.step
        assert 0 <= piece.first < piece.last <= grid.num_frames(len(piece.samples_T))
        places += range(start + piece.first, start + piece.last)
    assert places == list(range(grid.num_frames(num_samples)))
    margin = stride // grid.step // 2
    for left, right in zip(pieces, pieces[1:], strict=False):
        assert grid.num_frames(len(left.samples_T)) - left.last >= margin and right.first >= margin


@pytest.mark.parametrize("family", MAIN)
@torch.no_grad()
def test_a_long_recording_is_read_as_its_windows(family: str) -> None:
    model = tiny_sound_model(family, num_mixed_layers=2).model
    sound = tiny_sound(30 * 16_000 + 77)
    whole = model.backbone_features(sound[None]).layers
    grid, now = model.grid, 0
    pieces = cut_sound(sound, grid, model.window, model.config.subsequence_stride)
    assert len(pieces) > 30
    for piece in pieces:
        alone = model.backbone_features(piece.samples_T[None]).layers
        size = piece.last - piece.first
        for found, expected in zip(whole, alone, strict=True):
            part = expected[0, piece.first : piece.last]
            torch.testing.assert_close(found[0, now : now + size], part, atol=1e-4, rtol=0)
        now += size
    assert now == whole[0].shape[1] == grid.num_frames(len(sound))


@pytest.mark.parametrize("family", MAIN)
@torch.no_grad()
def test_a_long_recording_is_read_in_any_batch(family: str) -> None:
    model = tiny_sound_model(family, fusion_init=3.0)
    long, short = tiny_sound(70_001), tiny_sound(5_003, seed=1)
    expected = torch.cat([model(long[None]).logits, model(short[None]).logits])
    values = torch.stack([long, F.pad(short, (len(long) - len(short), 0), value=7.0)])
    mask = torch.ones(2, len(long))
    mask[1, : len(long) - len(short)] = 0
    torch.testing.assert_close(model(values, attention_mask=mask).logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_samples", [1, 399, 12_345, 16_000])
def test_spectrograms_are_those_of_the_feature_extractors(num_samples: int) -> None:
    sound = tiny_sound(num_samples)
    filled = F.pad(sound, (0, 16_000 - num_samples))[None]
    stock = WhisperFeatureExtractor(chunk_length=1)(sound.numpy(), sampling_rate=16_000)["input_features"]
    torch.testing.assert_close(whisper_spectrogram(filled, 80), torch.as_tensor(stock), atol=1e-5, rtol=0)
    if num_samples >= 400:  # the stock one cannot read less
        extractor = ASTFeatureExtractor(num_mel_bins=64, max_length=100)
        expected = torch.as_tensor(extractor(sound.numpy(), sampling_rate=16_000)["input_values"][0])
        config = ASTConfig(num_mel_bins=64, max_length=100)
        found = ast_spectrogram(filled, torch.tensor([num_samples]), config, extractor.mean, extractor.std)
        torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_blocks_are_computed_some_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_sound_model(fusion_init=3.0).model
    sound = tiny_sound(40_001)[None]  # 63 blocks of 4 frames
    expected = model(sound).last_hidden_state
    assert attention_selfattn.blocks_at_once((torch.zeros(1, 63, 4, 16), torch.zeros(1, 63, 4, 16))) is None
    monkeypatch.setattr(attention_selfattn, "COPIED_AT_ONCE", 50_000)
    assert attention_selfattn.blocks_at_once((torch.zeros(1, 63, 4, 16), torch.zeros(1, 63, 4, 16))) == 6
    torch.testing.assert_close(model(sound).last_hidden_state, expected, atol=1e-5, rtol=0)
    with torch.enable_grad():
        assert attention_selfattn.blocks_at_once((torch.zeros(1, 63, 4, 16), torch.zeros(1, 63, 4, 16))) is None


PEAK = """
import sys
sys.path.insert(0, "../..")
import torch
from tiny_sounds import tiny_sound_model
torch.set_num_threads(1)
def peak():  # in KiB; that of getrusage begins with the parent's
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
family, samples = sys.argv[1], int(sys.argv[2])
model = tiny_sound_model(family, "ctc", num_mixed_layers=2, block_size=64)
with torch.inference_mode():
    model(torch.randn(1, 16_000))
    before = peak()
    model(torch.randn(1, samples))
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_grows_with_the_length_alone() -> None:
    folder = str(Path(__file__).parents[1] / "support")

    def peak(minutes: int) -> int:
        command = [sys.executable, "-c", PEAK, "whisper", str(minutes * 60 * 16_000)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout)

    once, four_times = peak(5), peak(20)
    assert four_times < 4.5 * once, (once, four_times)
