"""Classes, sets of labels, ordered classes or a number for a sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import AutoFeatureExtractor, PreTrainedConfig

from ..data import format_report
from ..data.sounds import SoundData, check_sounds, deduplicate_sounds, load_sounds, read_sounds
from ..data.sounds.load import SOUNDS
from ..data.sounds.read import raw_sounds
from ..modeling.audio_selfattn import SelfAttnForAudioClassification
from .backbone import Inputs
from .media.classification import MediaClassification, MediaClassificationArguments
from .media.files import splits_of, unopened
from .media.sounds import SoundAnswers, frames_of_sounds, open_sound_backbone, sound_inputs
from .task import say


@dataclass
class AudioClassificationArguments(MediaClassificationArguments):
    """Tune a classifier of sounds: folders of sounds, whose folders are the labels, or tables with their paths.

    Args:
        sound_column: column of the sounds, as paths or bytes; found where it is not given.
        sound_folder: what the paths in a table are relative to; the folder of the table where it is not given.
    """

    task: ClassVar[str] = "audio-classification"

    sound_column: str | None = None
    sound_folder: str | None = None

    def columns(self) -> dict[str, Any]:
        """Return what the user said of the columns and labels."""
        names = ("sound_column", "label_column", "problem", "label_names", "label_separator")
        return {name: getattr(self, name) for name in names}


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

    def raw_rows(self) -> DatasetDict:
        """Return the rows that the arguments name, as they are; no sound is opened."""
        names = ("sound_column", "sound_folder")
        return splits_of(load_sounds, self.arguments, **{name: getattr(self.arguments, name) for name in names})

    def load(self) -> SoundData:
        """Load and check the data; every sound is read once."""
        arguments = self.arguments
        kept = [arguments.group_column] if arguments.group_column else []
        with PartialState().local_main_process_first():
            data = read_sounds(
                self.raw_rows(), on_bad_row=arguments.on_bad_row, keep_columns=kept, **arguments.columns()
            )
        return deduplicate_sounds(data) if arguments.deduplicate else data

    def check(self) -> dict[str, Any]:
        """Print the report on the rows that a run would read, bad ones and all, and return it."""
        arguments = self.arguments
        report = check_sounds(self.raw_rows(), group_column=arguments.group_column, **arguments.columns())
        report["notes"] += self.outlook(report["notes"])
        say(format_report(report))
        return report

    def settings_found(self) -> tuple[dict[str, Any], list[str]]:
        """Return the columns, the problem and the labels of the data, and notes on them."""
        raw = raw_sounds(self.raw_rows(), **self.arguments.columns())
        found = {"sound_column": next(iter(raw.file_columns.values())), "label_column": raw.columns.label}
        found |= {"problem": raw.scheme.problem}
        return found | ({} if raw.scheme.problem == "regression" else {"label_names": raw.scheme.names}), raw.notes

    def open_processor(self) -> tuple[PreTrainedConfig, Any]:
        """Return the configuration of the backbone and a feature extractor for it."""
        return open_sound_backbone(self.arguments)

    def inputs(self, processor: Any) -> Inputs:
        """Return how a backbone reads sounds."""
        return sound_inputs(processor)

    def encode(self, data: SoundData, processor: Any) -> dict[str, Dataset]:
        """Return the splits with their sounds unopened."""
        return {
            name: unopened(split, SOUNDS, data.problem, frames_of_sounds(split)) for name, split in data.splits.items()
        }

    @classmethod
    def read_files(cls, **files: Any) -> DatasetDict:
        """Return the rows of folders of sounds, or of tables, of splits, as they are."""
        return load_sounds(**files)
