# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""SelfAttn models for sound: the same heads on the frames of any backbone that reads waves or their spectrograms.

Shape suffixes: B sounds, T samples, N frames, D features, L layers, C characters or pieces of words, S labels.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers.utils import auto_docstring, can_return_tuple, logging

from .backbone_selfattn import BackboneFeatures, shed_unread_weights
from .base_selfattn import SelfAttnClassifier, SelfAttnMediaModel, SelfAttnPreTrainedModel
from .configuration_selfattn import SelfAttnConfig
from .outputs_selfattn import (
    CLASSES,
    FEATURE_MASK,
    FEATURES,
    NUM_ITEMS,
    SelfAttnClassifierOutput,
    SelfAttnModelOutput,
    mean_loss,
    without_features,
)
from .sound_windows_selfattn import (
    DEFAULT_WINDOW,
    FrameGrid,
    SoundPiece,
    ast_spectrogram,
    cut_sound,
    frame_grid,
    masked_spans,
    sounds_of_rows,
    whisper_spectrogram,
)
from .subsequences_selfattn import first_tokens

logger = logging.get_logger(__name__)

WINDOWS_AT_ONCE = 8  # so many are in the backbone at once, however long a sound is
SOUND_ARGS = r"""
input_values (`torch.Tensor` of shape `(batch_size, samples)`):
    Sound of any length, as the feature extractor of `open_sound_extractor` returns it.
attention_mask (`torch.Tensor` of shape `(batch_size, samples)`, *optional*):
    1 at the samples of a sound, 0 at padding. Frames are counted from the first sample that is none.
"""
TRANSCRIPTS = r"""
labels (`torch.LongTensor` of shape `(batch_size, characters)`, *optional*):
    The transcripts as the tokenizer's numbers, -100 where there is no more of them. The loss is the mean over all
    characters of the batch. Logits at padding say the blank, so a batch is decoded as it is; a frame has
    `config.inputs_to_logits_ratio` samples.
"""


def settle_windows(config: SelfAttnConfig, grid: FrameGrid) -> None:
    """Write the windows into a configuration that does not name them, and the frames of its backbone."""
    longest = grid.longest or float("inf")
    config.subsequence_length = config.subsequence_length or grid.longest or DEFAULT_WINDOW
    if config.subsequence_stride is None:
        config.subsequence_stride = config.subsequence_length // 8
    window, shared = config.subsequence_length, config.subsequence_stride
    if not 0 <= shared // grid.step < grid.num_frames(window) or window > longest or window < grid.reach:
        raise ValueError(
            f"subsequence_length={window} and subsequence_stride={shared} samples leave no step, or are more than the "
            f"backbone reads at once. A frame has {grid.reach} samples and begins {grid.step} after the one before it;"
            f" at once {longest} samples are read. Take a stride below the length, such as an eighth."
        )
    config.inputs_to_logits_ratio = grid.step


def frames_of(outputs: Any, num_layers: int, num_frames: int) -> tuple[Tensor, ...]:
    """Return the last layers (B, N, D) that a backbone shows, the last as it answers it: often normalised."""
    layers = [*(outputs.hidden_states or ())[:-1], outputs.last_hidden_state]
    return tuple(in_frames(layer, num_frames) for layer in layers[-num_layers:])


def in_frames(layer: Tensor, num_frames: int) -> Tensor:
    """Return a layer frame by frame: those inside SEW have half of the frames, those of AST several places in each."""
    if layer.shape[1] < num_frames:
        return F.interpolate(layer.transpose(1, 2), size=num_frames).transpose(1, 2)
    if layer.shape[1] > num_frames:  # two tokens, then the bands of frequencies, each with all its frames
        return layer[:, 2:].unflatten(1, (-1, num_frames)).mean(dim=1)
    return layer


# Its `__init__` calls that of a model which calls `post_init`. trf-ignore: TRF013
@auto_docstring
class SelfAttnAudioModel(SelfAttnMediaModel):
    main_input_name = "input_values"
    input_names = ("input_values", "attention_mask", "features", "feature_mask")

    def __init__(self, config: SelfAttnConfig, **options: Any):
        self.grid = frame_grid(config.backbone_config)
        settle_windows(config, self.grid)
        super().__init__(config, **options)
        names = {name for name, _ in self.backbone.named_parameters()}
        if not getattr(config.backbone_config, "apply_spec_augment", False):
            names.discard("masked_spec_embed")
        shed_unread_weights(self.backbone, names, set(self.backbone.state_dict()))

    def get_input_embeddings(self) -> nn.Module:
        projection = getattr(self.backbone, "feature_projection", None)
        return super().get_input_embeddings() if projection is None else projection

    @can_return_tuple
    @auto_docstring(custom_args=SOUND_ARGS + FEATURES + FEATURE_MASK)
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        feature_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor] | SelfAttnModelOutput:
        inputs = {"input_values": input_values, "attention_mask": attention_mask}
        return self.read_input(kwargs, **inputs, features=features, feature_mask=feature_mask)[0]

    def read_media(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, *, record: bool
    ) -> BackboneFeatures:
        """Return what the heads read of sounds, frame by frame."""
        window, stride = self.window, cast(int, self.config.subsequence_stride)
        sounds = sounds_of_rows(input_values, attention_mask)
        cuts = [cut_sound(sound, self.grid, window, stride) for sound in sounds]
        pieces = [piece for cut in cuts for piece in cut]
        found, attentions = self._read_pieces(pieces, record)
        rows, start = [], 0
        for cut in cuts:
            rows.append([torch.cat(of_layer) for of_layer in zip(*found[start : start + len(cut)], strict=True)])
            start += len(cut)
        layers = tuple(pad_sequence(list(of_layer), batch_first=True) for of_layer in zip(*rows, strict=True))
        lengths = [len(row[0]) for row in rows]
        lengths_B = None if len(set(lengths)) == 1 else torch.tensor(lengths, device=input_values.device)
        return BackboneFeatures(layers, lengths_B, hidden_states=layers, attentions=attentions)

    def _read_pieces(
        self, pieces: list[SoundPiece], record: bool
    ) -> tuple[list[tuple[Tensor, ...]], tuple[Tensor, ...] | None]:
        """Return the layers (N, D) of each piece, read together with others of its length."""
        batches: list[list[int]] = []
        sizes = [max(len(piece.samples_T), self.grid.shortest) for piece in pieces]
        for number in sorted(range(len(pieces)), key=lambda number: sizes[number]):
            last = batches[-1] if batches else []
            if 0 < len(last) < WINDOWS_AT_ONCE and (self.grid.reads_padding or sizes[number] == sizes[last[-1]]):
                last.append(number)
            else:
                batches.append([number])
        if record and len(batches) > 1:
            raise ValueError(f"Attentions are returned of at most {WINDOWS_AT_ONCE} windows, all of one length.")
        found: dict[int, tuple[Tensor, ...]] = {}
        attentions = None
        for batch in batches:
            outputs = self._run_on_sounds([pieces[number].samples_T for number in batch], record)
            num_frames = self.grid.num_frames(sizes[batch[-1]])
            layers = frames_of(outputs, self.config.num_mixed_layers, num_frames)
            for place, number in enumerate(batch):
                taken = slice(pieces[number].first, pieces[number].last)
                found[number] = tuple(layer[place, taken] for layer in layers)
            attentions = outputs.attentions if record else None
        return [found[number] for number in range(len(pieces))], attentions

    def _run_on_sounds(self, sounds: list[Tensor], record: bool) -> Any:
        """Return what the backbone answers to sounds that are filled up to one length."""
        config, kind, shortest = self.config, self.config.backbone_config.model_type, self.grid.shortest
        options: dict[str, Any] = {"output_attentions": True} if record else {}
        lengths_B = torch.tensor([len(sound) for sound in sounds], device=sounds[0].device)
        inputs = pad_sequence(sounds, batch_first=True)
        inputs = F.pad(inputs, (0, max(shortest - inputs.shape[1], 0)))  # with silence
        if kind == "whisper":
            inputs = whisper_spectrogram(inputs.float(), config.backbone_config.num_mel_bins)
            if self.backbone.training and config.backbone_config.apply_spec_augment:
                inputs = masked_spans(inputs, config.backbone_config)
        elif kind == "audio-spectrogram-transformer":
            scale = config.spectrogram_mean, config.spectrogram_std
            inputs = ast_spectrogram(inputs.float(), lengths_B, config.backbone_config, *scale)
        elif len({max(len(sound), shortest) for sound in sounds}) > 1:
            options["attention_mask"] = first_tokens(lengths_B.clamp(min=shortest), inputs.shape[1]).long()
        every_layer = config.num_mixed_layers > 1
        return self.backbone(
            inputs.to(self.backbone.dtype), output_hidden_states=every_layer, return_dict=True, **options
        )


# Its `__init__` calls that of a model which calls `post_init`. trf-ignore: TRF013
@auto_docstring
class SelfAttnForAudioClassification(SelfAttnClassifier):
    model_class = SelfAttnAudioModel
    main_input_name = "input_values"

    def __init__(self, config: SelfAttnConfig, **options: Any):
        super().__init__(config, **options)
        if config.pooling == "cls":
            raise ValueError("pooling='cls' reads the first moment of a sound only. Take 'class_query' or 'mean'.")

    @can_return_tuple
    @auto_docstring(custom_args=SOUND_ARGS + CLASSES + NUM_ITEMS + FEATURES + FEATURE_MASK)
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        features: torch.Tensor | None = None,
        feature_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor] | SelfAttnClassifierOutput:
        inputs = {"input_values": input_values, "attention_mask": attention_mask}
        inputs |= {"features": features, "feature_mask": feature_mask}
        return self.classify(inputs, labels, num_items_in_batch, kwargs)


def ctc_losses(logits_BNC: Tensor, lengths_B: Tensor, labels_BS: Tensor, blank: int) -> Tensor:
    """Return the CTC loss (B,) of each transcript (Graves et al., 2006), 0 where its sound has too few frames for it.

    Args:
        lengths_B: number of frames of each sound.
        labels_BS: the transcripts, -100 where there is no more of them.
    """
    is_label_BS = labels_BS >= 0
    label_lengths_B = is_label_BS.sum(dim=1)
    repeats_B = ((labels_BS[:, 1:] == labels_BS[:, :-1]) & is_label_BS[:, 1:]).sum(dim=1)
    is_short_B = lengths_B < label_lengths_B + repeats_B
    if is_short_B.any():
        logger.warning_once(
            "Some transcripts have more characters than their sound has frames, and nothing is learned of them. Check "
            "that they belong together; a backbone with more frames a second, or pieces of words, can hold more."
        )
    log_probs_NBC = F.log_softmax(logits_BNC, dim=-1, dtype=torch.float32).transpose(0, 1)
    with torch.backends.cudnn.flags(enabled=False):  # it takes no blank but 0
        return F.ctc_loss(
            log_probs_NBC,
            labels_BS[is_label_BS],
            lengths_B,
            label_lengths_B,
            blank=blank,
            reduction="none",
            zero_infinity=True,
        )


def silence_padding(logits_BNC: Tensor, mask_BN: Tensor | None, blank: int) -> Tensor:
    """Return logits that say the blank at padding, so that a batch is decoded as each sound of it alone."""
    if mask_BN is None:
        return logits_BNC
    silence_C = torch.full_like(logits_BNC[0, 0], -100.0)  # not the least number: beam search adds logarithms
    silence_C[blank] = 0.0
    return torch.where(mask_BN[..., None], logits_BNC, silence_C)


@auto_docstring
class SelfAttnForCTC(SelfAttnPreTrainedModel):
    main_input_name = "input_values"

    def __init__(self, config: SelfAttnConfig, **options: Any):
        super().__init__(config, **options)
        if config.pad_token_id is None or not 0 <= config.pad_token_id < (config.vocab_size or 0):
            raise ValueError(
                f"vocab_size={config.vocab_size} and pad_token_id={config.pad_token_id}: recognition needs both, the "
                "blank being in the vocabulary. Give vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id."
            )
        self.model = SelfAttnAudioModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, cast(int, config.vocab_size))
        self.post_init()

    @can_return_tuple
    @auto_docstring(custom_args=SOUND_ARGS + NUM_ITEMS + FEATURES + FEATURE_MASK + TRANSCRIPTS)
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        features: torch.Tensor | None = None,
        feature_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor] | SelfAttnClassifierOutput:
        inputs = {"input_values": input_values, "attention_mask": attention_mask}
        outputs, found = self.read_input(kwargs, **inputs, features=features, feature_mask=feature_mask)
        mask_BN, blank = found.real_positions(), cast(int, self.config.pad_token_id)
        logits = self.frame_logits(cast(Tensor, outputs.last_hidden_state), mask_BN)
        loss = None
        if labels is not None:
            lengths_B = found.lengths_B if mask_BN is None else mask_BN.sum(dim=1)
            if lengths_B is None:
                lengths_B = torch.full((len(logits),), logits.shape[1], device=logits.device)
            loss = mean_loss(ctc_losses(logits, lengths_B, labels, blank), labels, num_items_in_batch)
        logits = silence_padding(logits, mask_BN, blank)
        return SelfAttnClassifierOutput(loss=loss, logits=logits, **without_features(outputs))

    def frame_logits(self, features_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        """Return the logits (B, N, C) of the characters at each frame."""
        return self.classifier(self.dropout(features_BND))


__all__ = ["SelfAttnAudioModel", "SelfAttnForAudioClassification", "SelfAttnForCTC"]
