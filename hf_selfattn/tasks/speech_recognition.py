"""What is said in a sound: characters by connectionist temporal classification (CTC)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import (
    EvalPrediction,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    Wav2Vec2Processor,
)

from ..arguments import RunArguments
from ..data import fingerprint
from ..data.sounds import (
    Normalisation,
    SpeechData,
    build_vocabulary,
    check_speech,
    deduplicate_sounds,
    load_sounds,
    normalise_transcripts,
    read_speech,
)
from ..data.sounds.load import SOUNDS
from ..data.sounds.speech import SPEECH, raw_speech
from ..files import write_text
from ..metrics.recognition import error_rates, score_recognition
from ..modeling.audio_selfattn import SelfAttnForCTC
from .backbone import Inputs, is_tuned
from .evaluation import order_by_length
from .media.files import FileTask
from .media.sounds import frames_of_sounds, open_sound_backbone, sound_inputs
from .media.speech import SpeechAnswers, SpeechCollator, likeliest_tokens, recognised

METRICS = ["wer", "cer"]


@dataclass
class SpeechRecognitionArguments(RunArguments):
    """Tune a recogniser of speech: tables with paths of sounds and their transcripts.

    Args:
        sound_column: column of the sounds, as paths or bytes; found where it is not given.
        sound_folder: what the paths in a table are relative to; the folder of the table where it is not given.
        transcript_column: column of the transcripts; a well-known name is found.
        case: of the transcripts: `lower` or `upper` case for all, or as they are, `keep`.
        remove_punctuation: leave punctuation and symbols out of the transcripts; apostrophes inside words stay.
        least_count: how often a character must occur in train to be learned.
        group_column: rows of one group, such as a speaker's, never stand on both sides of a split that is made here,
            and intervals are over groups; `transcript` groups rows of one text.
        deduplicate: drop repeated training sounds, and training sounds that stand in an evaluation split.
    """

    task: ClassVar[str] = "speech-recognition"

    sound_column: str | None = None
    sound_folder: str | None = None
    transcript_column: str | None = None
    case: Literal["keep", "lower", "upper"] = "keep"
    remove_punctuation: bool = False
    least_count: int = 1
    group_column: str | None = None
    deduplicate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample_tokens:
            raise ValueError(f"sample_tokens={self.sample_tokens} cuts texts, and sounds are none. Leave it out.")

    def columns(self) -> dict[str, Any]:
        """Return what the user said of the columns."""
        return {"sound_column": self.sound_column, "transcript_column": self.transcript_column}


class SpeechRecognition(FileTask[SpeechRecognitionArguments]):
    """A row is a sound with its transcript; the vocabulary is that of the transcripts of train."""

    name = command = "speech-recognition"
    pipeline = "automatic-speech-recognition"
    example_model = "openai/whisper-base"
    model_class = SelfAttnForCTC
    medium = SOUNDS
    processor_class = Wav2Vec2Processor
    answers = SpeechAnswers
    arguments_class = SpeechRecognitionArguments
    columns_trained = ("sound_column", "transcript_column", "case", "remove_punctuation")

    def load(self) -> SpeechData:
        """Load and check the data; every sound is read once, and transcripts are written in one form."""
        arguments = self.arguments
        kept = [] if arguments.group_column in (None, "transcript") else [arguments.group_column]
        with PartialState().local_main_process_first():
            options = {"keep_columns": kept, **arguments.columns()}
            data = read_speech(self.raw_rows(), on_bad_row=arguments.on_bad_row, **options)
        form = Normalisation(arguments.case, arguments.remove_punctuation)
        data = normalise_transcripts(data, form, on_bad_row=arguments.on_bad_row)
        data = deduplicate_sounds(data) if arguments.deduplicate else data
        if "train" not in data.splits:
            return data
        return replace(data, notes=[*data.notes, *self.vocabulary(data).notes])

    def vocabulary(self, data: SpeechData) -> Any:
        """Return the characters of the transcripts of train, by number."""
        return build_vocabulary(data, least_count=self.arguments.least_count)

    def report(self) -> dict[str, Any]:
        """Return the report on the rows."""
        arguments = self.arguments
        group = None if arguments.group_column == "transcript" else arguments.group_column
        return check_speech(self.raw_rows(), group_column=group, **arguments.columns())

    def settings_found(self) -> tuple[dict[str, Any], list[str]]:
        """Return the columns of the data, and notes on them."""
        raw = raw_speech(self.raw_rows(), **self.arguments.columns())
        return {"sound_column": next(iter(raw.sounds.values())), "transcript_column": raw.transcripts}, raw.notes

    def open_processor(self) -> tuple[PreTrainedConfig, Any]:
        """Return the configuration of the backbone and a feature extractor for it.

        Raises:
            ValueError: for a model that was tuned before, whose vocabulary would be another one.
        """
        if is_tuned(self.arguments):
            raise ValueError(
                f"model={self.arguments.model!r} was tuned before. Recognition starts from a plain backbone: give its "
                "name, or its folder."
            )
        return open_sound_backbone(self.arguments)

    def fitted_processor(self, data: SpeechData, processor: Any) -> Any:
        """Return the feature extractor together with the tokenizer of the vocabulary of train."""
        return Wav2Vec2Processor(feature_extractor=processor, tokenizer=self.vocabulary(data).tokenizer())

    def label_options(self, data: SpeechData) -> dict[str, Any]:
        """Return the fields of the model's configuration that say what is predicted."""
        tokenizer = self.vocabulary(data).tokenizer()
        return {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}

    def inputs(self, processor: Any) -> Inputs:
        """Return how a backbone reads sounds."""
        extractor = processor.feature_extractor
        return replace(sound_inputs(extractor), collate=SpeechCollator(extractor))

    def encode(self, data: SpeechData, processor: Any) -> dict[str, Dataset]:
        """Return the splits with their sounds unopened, and their transcripts as numbers of characters."""
        encoded = {}
        for name, split in data.splits.items():
            labels = processor.tokenizer(split["transcript"][:])["input_ids"]
            chosen = split.select_columns(["sound", "transcript"]).add_column("labels", labels)
            encoded[name] = chosen.add_column("length", frames_of_sounds(split))
        return encoded

    def trainer_options(
        self, data: SpeechData, encoded: dict[str, Dataset], options: TrainingArguments, processor: Any
    ) -> dict[str, Any]:
        """Return collator and metrics for `Trainer`; the loss is the model's own."""
        return {
            "data_collator": self.inputs(processor).collate,
            "compute_metrics": recognition_metrics(encoded["validation"], processor.tokenizer),
            "preprocess_logits_for_metrics": likeliest_tokens,
        }

    def metrics(self, data: SpeechData) -> list[str]:
        """Return the metrics of the validation split."""
        return METRICS

    def selection_metric(self, data: SpeechData) -> str:
        """Return the metric that picks the checkpoint, the lowest: `wer` stays near 1 while words begin to form."""
        return "cer"

    def train_record(self, data: SpeechData) -> dict[str, Any]:
        """Return how many sounds train has, how long they are together, and its fingerprint."""
        train = data.splits["train"]
        return {"rows": len(train), "fingerprint": fingerprint(train), "seconds": sum(train["seconds"])}

    def evaluate(
        self, data: SpeechData, encoded: dict[str, Dataset], evaluator: Trainer, output_dir: Path
    ) -> dict[str, Any]:
        """Score every evaluation split with intervals over its groups, and write what was recognised."""
        tokenizer = self.vocabulary(data).tokenizer()
        record = {}
        for name, split in encoded.items():
            if name == "train":
                continue
            texts, path = predicted_texts(evaluator, split, tokenizer), f"predictions-{name}.jsonl"
            if PartialState().is_main_process:
                write_texts(output_dir / path, split["transcript"][:], texts)
            record[name] = {**self.text_record(data.splits[name], texts), "predictions_file": path}
        return {"problem": SPEECH, "splits": record}

    def text_record(self, split: Dataset, texts: list[str]) -> dict[str, Any]:
        """Return what the results hold of an evaluation split, of the texts recognised in it."""
        column = self.arguments.group_column
        groups = split[column][:] if column in split.column_names else None
        scores = score_recognition(split["transcript"][:], texts, groups=groups)
        return {
            "rows": len(split),
            "fingerprint": fingerprint(split),
            "scores": {metric: value.as_dict() for metric, value in scores.items()},
        }

    @classmethod
    def read_files(cls, **files: Any) -> DatasetDict:
        """Return the rows of tables of splits, as they are."""
        return load_sounds(**files)

    def score_answers(
        self, data: SpeechData, answers: list[dict[str, Any]], config: PreTrainedConfig
    ) -> dict[str, Any]:
        """Return the scores of the texts recognised."""
        return self.text_record(data.splits["test"], [answer["text"] for answer in answers])


def recognition_metrics(
    encoded: Dataset, tokenizer: PreTrainedTokenizerBase
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return what `Trainer` calls after each evaluation of the validation split, whose rows come by length."""
    references = encoded.select(order_by_length(encoded))["transcript"][:]

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        return error_rates(references, recognised(np.asarray(prediction.predictions), tokenizer))

    return compute


def predicted_texts(evaluator: Trainer, split: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return what is recognised in each row, in the order of the rows; those of like length are read together."""
    order = order_by_length(split)
    texts = recognised(np.asarray(evaluator.predict(split.select(order)).predictions), tokenizer)
    if len(texts) != len(split):
        raise ValueError(f"{len(split)} sounds were evaluated, but {len(texts)} predictions came back.")
    of_row = dict(zip(order.tolist(), texts, strict=True))
    return [of_row[row] for row in range(len(split))]


def write_texts(path: Path, references: list[str], texts: list[str]) -> None:
    """Write one line for each row: its number, its transcript and what was recognised."""
    rows = (
        json.dumps({"row": number, "reference": reference, "output": text}, ensure_ascii=False)
        for number, (reference, text) in enumerate(zip(references, texts, strict=True))
    )
    write_text(path, "".join(f"{row}\n" for row in rows))
