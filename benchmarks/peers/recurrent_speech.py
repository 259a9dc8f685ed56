"""The peer for speech: a bidirectional LSTM instead of our heads, trained, decoded and scored by our recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from hf_selfattn import SelfAttnConfig, register_task
from hf_selfattn.modeling.audio_selfattn import SelfAttnForCTC
from hf_selfattn.tasks.speech_recognition import SpeechRecognition, SpeechRecognitionArguments

WIDTH = 256  # of each direction


@dataclass
class RecurrentSpeechArguments(SpeechRecognitionArguments):
    """The arguments of the recipe for speech, for the peer."""

    task: ClassVar[str] = "recurrent-speech-recognition"


class BidirectionalLSTM(nn.Module):
    """Reads right-padded rows from both ends, each as it is alone; packed rows would take three times as long.

    Shape: (B, N, D) -> (B, N, 2 * width).
    """

    def __init__(self, input_width: int, width: int = WIDTH):
        super().__init__()
        self.forwards = nn.LSTM(input_width, width, batch_first=True)
        self.backwards = nn.LSTM(input_width, width, batch_first=True)

    def forward(self, features_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        B, N, _ = features_BND.shape
        lengths_B1 = torch.full((B, 1), N) if mask_BN is None else mask_BN.sum(dim=1, keepdim=True)
        place_N = torch.arange(N)
        turned_BN1 = torch.where(place_N < lengths_B1, lengths_B1 - 1 - place_N, place_N)[..., None]
        backwards = self.backwards(features_BND.take_along_dim(turned_BN1, dim=1))[0]
        return torch.cat([self.forwards(features_BND)[0], backwards.take_along_dim(turned_BN1, dim=1)], dim=-1)


class RecurrentForCTC(SelfAttnForCTC):
    """CTC on an LSTM on the mixed layers of the backbone."""

    def __init__(self, config: SelfAttnConfig, **options: Any):
        super().__init__(config, **options)
        self.recurrent = BidirectionalLSTM(config.hidden_size)
        self.classifier = nn.Linear(2 * WIDTH, cast(int, config.vocab_size))

    def frame_logits(self, features_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        return self.classifier(self.dropout(self.recurrent(self.dropout(features_BND), mask_BN)))


@register_task
class RecurrentSpeech(SpeechRecognition):
    """Speech recognition with the peer's model, of whose heads nothing but the mix of layers is left."""

    name = "recurrent-speech-recognition"
    model_class = RecurrentForCTC
