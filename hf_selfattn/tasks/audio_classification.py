"""Classes, sets of labels, ordered classes or a number for a sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict
from transformers import AutoFeatureExtractor, PreTrainedConfig

from ..data.sounds import check_sounds, deduplicate_sounds, load_sounds, read_sounds
from ..data.sounds.load import SOUNDS
from ..modeling.audio_selfattn import SelfAttnForAudioClassification
from .backbone import Inputs
from .media.classification import MediaClassification, MediaClassificationArguments
from .media.sounds import SoundAnswers, frames_of_sounds, open_sound_backbone, sound_inputs


@dataclass
class AudioClassificationArguments(MediaClassificationArguments):
    """Tune a classifier of sounds: folders of sounds, whose folders are the labels, or tables with their paths.

    Args:
        sound_column: column of the sounds, as paths or bytes; found where it is not given.
        sound_folder: what the paths in a table are relative to; the folder of the table where it is not given.
    """

    task: ClassVar[str] = "audio-classification"
    medium = "sound"

    sound_column: str | None = None
    sound_folder: str | None = None


class AudioClassification(MediaClassification[AudioClassificationArguments]):
    """A row is a sound with its labels; it is opened when it is read, and answers are calibrated."""

    name = pipeline = command = "audio-classification"
    example_model = "openai/whisper-base"
    model_class = SelfAttnForAudioClassification
    processor_class = AutoFeatureExtractor
    answers = SoundAnswers
    arguments_class = AudioClassificationArguments
    columns_trained = ("sound_column", "label_column")
    medium = SOUNDS
    read_rows = staticmethod(read_sounds)
    without_repeats = staticmethod(deduplicate_sounds)

    def report(self) -> dict[str, Any]:
        """Return the report on the rows."""
        return check_sounds(self.raw_rows(), group_column=self.arguments.group_column, **self.arguments.columns())

    def open_processor(self) -> tuple[PreTrainedConfig, Any]:
        """Return the configuration of the backbone and a feature extractor for it."""
        return open_sound_backbone(self.arguments)

    def inputs(self, processor: Any) -> Inputs:
        """Return how a backbone reads sounds."""
        return sound_inputs(processor)

    def lengths(self, split: Dataset) -> list[int]:
        """Return about how many frames the backbone makes of each sound."""
        return frames_of_sounds(split)

    @classmethod
    def read_files(cls, **files: Any) -> DatasetDict:
        """Return the rows of folders of sounds, or of tables, of splits, as they are."""
        return load_sounds(**files)
