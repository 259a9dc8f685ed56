"""Label new rows: of files of any size, in the order of the rows, whole in the end or to be gone on with.

The rows are answered in blocks that depend on the rows alone. Each block becomes a file beside the output, whole or
not at all; when all are there they become the output in one rename. So the output is the same whichever process
answers a block, and whenever a process is killed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

from accelerate import PartialState
from datasets import Dataset
from transformers.utils import logging

from ..data.formats import ORIGIN, Row, format_of, table_from_rows
from ..data.load import find_files
from ..data.media.medium import Medium
from ..files import delete, read_json, sync_folder, whole_or_nothing, write_json
from ..hub.results import LOCK_FILE
from ..machine import alone_in, from_main, join_processes
from .arguments import InferenceArguments, OnBadRow
from .predictor import Predictor
from .reading import STDIN, TEXT_LINES, Block, Source, media_rows, open_split
from .record import read_record, trained_columns
from .writing import Writer, open_writer

PLAN_FILE = "plan.json"
BAD_ROW_SKIP = "Mend the row, or set on_bad_row=skip to leave bad rows out."
MOST_NAMED = 20  # of the bad rows that were skipped
DIGITS = 6  # of a probability in a file


@dataclass
class PredictArguments(InferenceArguments):
    """Answer new rows with a tuned model: the columns of the input, and the answers beside them.

    Args:
        output: file to write; its ending names the format: .csv, .tsv, .jsonl, .parquet or, of a column file, .conll,
            compressed where .gz, .bz2, .xz or .zst follows. `-` is the standard output.
        input_format: of the input, where the name does not say it: csv, tsv, jsonl, parquet, text (a text in each
            line) or conll.
        output_format: of the output, likewise.
        probabilities: write the probability of every label, too.
        word_times: of a recogniser, write its words with start, end and confidence, too.
        abstain: below this probability the label is `unsure`.
        prefix: of the names of the answers, such as `predicted_`, where the input has such columns itself.
        on_bad_row: `error`, or `skip` to leave bad rows out; they are counted, and the first named.
        block_rows: rows that are read, answered and written at once.
    """

    required: ClassVar[tuple[str, ...]] = ("model", "output")

    output: str = ""
    input_format: str | None = None
    output_format: str | None = None
    probabilities: bool = False
    word_times: bool = False
    abstain: float | None = None
    prefix: str = ""
    on_bad_row: OnBadRow = "error"
    block_rows: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on_bad_row not in ("error", "skip"):
            raise ValueError(f"on_bad_row={self.on_bad_row!r} is unknown; it is 'error' or 'skip'.")
        if self.abstain is not None and not 0 < self.abstain < 1:
            raise ValueError(f"abstain={self.abstain} must be a probability between 0 and 1, such as 0.8.")
        if self.block_rows < 1:
            raise ValueError(f"block_rows={self.block_rows} must be at least 1.")

    @property
    def prints(self) -> bool:
        """Whether the answers go to the standard output."""
        return self.output == "-"

    def source(self, fields: Sequence[str], medium: Medium | None = None) -> Source:
        """Return the rows to answer, for a model that reads such fields, or files of a medium."""
        ending = f".{self.input_format.removeprefix('.')}" if self.input_format else None
        text_lines = "tokens" not in fields
        options: dict[str, Any] = {"input_format": ending, "text_lines": text_lines, "block_rows": self.block_rows}
        if self.dataset is not None:
            split = open_split(self.dataset, self.dataset_config, self.revision, self.split)
            return Source(split=split, place=f"{self.dataset}/{self.split or 'rows'}", **options)
        if self.input == "-":
            guess = (
                "" if ending else "The standard input is read as a text in each line; a table needs input_format=csv."
            )
            return Source([STDIN], guess=guess, **{**options, "input_format": ending or TEXT_LINES})
        if medium is not None and ending is None and (media := media_rows(self.input or [], medium)):
            return Source(media=media, **options)
        files = find_files(self.input or [], "input", annotated=ending is None)
        output = Path(self.output)
        if output.exists() and any(output.samefile(file) for file in files):
            raise ValueError(f"output={self.output!r} is a file that is read, too. Give it another name.")
        guessed = "" if text_lines or ending else ", ".join(str(file) for file in files if format_of(file) == ".txt")
        said = f"Read as column files, a word in each line: {guessed}. Texts in lines need input_format=text."
        return Source(files, guess=said if guessed else "", **options)

    def writer(self) -> Writer:
        """Return what writes the output."""
        ending = f".{self.output_format.removeprefix('.')}" if self.output_format else None
        return open_writer(Path(self.output), ending or (".jsonl" if self.prints else None))

    def what_counts(self) -> dict[str, Any]:
        """Return the options that decide the answers or how they are written."""
        given = asdict(self)
        places = ("model", "model_revision", "backbone_name_or_path", "input", "dataset", "dataset_config", "revision")
        given["output"] = "".join(Path(self.output).suffixes)
        return {name: value for name, value in given.items() if name not in (*places, "split", "device")}


@dataclass
class Counts:
    """What became of the rows."""

    rows: int = 0
    bad: list[str] = field(default_factory=list)  # the first of those skipped, with what is wrong
    skipped: int = 0

    def in_words(self, target: str) -> str:
        """Return it as a sentence."""
        named = "; ".join(self.bad) + "; …" * (self.skipped > len(self.bad))
        skipped = f" {self.skipped:,} of {self.rows:,} rows were bad and skipped: {named}." if self.skipped else ""
        return f"Rows answered in {target}: {self.rows - self.skipped:,}.{skipped}"


def predict(arguments: PredictArguments) -> dict[str, Any]:
    """Answer the rows of files, or of a data set, and write them with their answers.

    Interrupted or killed, the same call goes on where it was. Under `accelerate launch` all processes share the work.

    Returns:
        How many `rows` were read, `answered` and `skipped`.

    Raises:
        ValueError: for a model, rows or an output that cannot be used, naming file and row.
    """
    join_processes()
    state = PartialState()
    writer = arguments.writer()
    if state.num_processes > 1 and (arguments.prints or arguments.input == "-"):
        raise ValueError("Standard input and output belong to one process. Give files, or start one process alone.")
    predictor = arguments.predictor(str(state.device) if state.num_processes > 1 else None)
    work = Work(arguments, predictor, writer)
    if arguments.prints:
        for block in work.source:
            work.answer(block, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    else:
        with parts_of(Path(arguments.output)) as parts:
            work.go_on(parts)
            work.answer_in(parts)
            work.finish(parts)
    work.tell(work.ending())
    counts = work.counts
    return {"rows": counts.rows, "answered": counts.rows - counts.skipped, "skipped": counts.skipped}


@contextmanager
def parts_of(output: Path) -> Iterator[Path]:
    """Hold the folder of the blocks of an output; it stays, to be gone on with, if it holds any in the end."""
    parts = output.with_name(f"{output.name}.parts")
    with alone_in(parts / LOCK_FILE, "Or choose another output."):
        try:
            yield parts
        finally:
            holds_blocks = any(path.name.isdecimal() for path in parts.glob("*"))
            if PartialState().is_main_process and parts.exists() and not holds_blocks:
                delete(parts)


class Work:
    """The rows of a source on their way to the output."""

    def __init__(self, arguments: PredictArguments, predictor: Predictor, writer: Writer):
        self.arguments, self.predictor, self.writer = arguments, predictor, writer
        self.record = read_record(arguments.model, arguments.model_revision)
        self.kind, self.state = predictor.kind, PartialState()
        self.source = arguments.source(self.kind.fields, self.kind.medium)
        self.columns: dict[str, str] = {}
        self.counts = Counts()
        self.blocks = 0  # that the source has
        self.printed = False  # whether rows went to the standard output
        self.expected = self.expect()

    def tell(self, text: str) -> None:
        """Print a line on the main process, beside what goes to the standard output."""
        self.state.print(text, file=sys.stderr if self.arguments.prints else sys.stdout, flush=True)

    def expect(self) -> str:
        """Return what to expect of the rows that are answered in spite of `abstain`."""
        if self.arguments.abstain is None:
            return ""
        return self.kind.expectation(self.arguments.abstain, self.record)

    def go_on(self, parts: Path) -> None:
        """Keep the blocks of an earlier call with the same rows, model and options; delete others."""
        plan = from_main(self.plan)
        if self.state.is_main_process:
            before = read_json(parts / PLAN_FILE) if (parts / PLAN_FILE).is_file() else None
            done = [path for path in parts.iterdir() if path.name not in (PLAN_FILE, LOCK_FILE)]
            if before != plan or plan["input"] is None:
                if before is not None and done:
                    changed = [name for name in plan if before.get(name) != plan[name] or plan[name] is None]
                    self.tell(f"{parts}: another {' and '.join(changed)} than before, so all rows are answered anew.")
                for path in done:
                    delete(path)
                write_json(parts / PLAN_FILE, plan)
            elif done:
                blocks = sum(path.name.isdecimal() for path in done)
                self.tell(f"Going on: {blocks} blocks of {self.arguments.block_rows} rows are answered already.")
        self.state.wait_for_everyone()

    def plan(self) -> dict[str, Any]:
        """Return what the answers depend on."""
        return {
            "model": self.predictor.digest(),
            "input": self.source.digests(),
            "options": self.arguments.what_counts(),
        }

    def answer_in(self, parts: Path) -> None:
        """Answer the blocks of this process that are not there yet, each into a file."""
        state = self.state
        with logging.tqdm(unit=" rows", disable=None if state.is_main_process else True) as bar:
            for block in self.source:
                self.blocks = block.number + 1
                shard = shard_of(parts, block.number)
                if block.number % state.num_processes != state.process_index or shard.is_file():
                    self.look(block)
                else:
                    with whole_or_nothing(shard) as side, side.open("wb") as target:
                        self.answer(block, target)
                bar.update(len(block.rows))

    def look(self, block: Block) -> list[int]:
        """Check the rows of a block and return the numbers of the right ones; an error names a bad one."""
        if not self.columns and not all(problem for _, problem in block.rows):
            self.find_columns(block)
        right = []
        for number, (row, problem) in enumerate(block.rows):
            if problem := problem or self.mistake(row):
                problem = problem.rstrip(".")
                if self.arguments.on_bad_row == "error":
                    raise ValueError(f"{problem}. {BAD_ROW_SKIP}")
                self.counts.skipped += 1
                self.counts.bad += [problem] if len(self.counts.bad) < MOST_NAMED else []
            else:
                right.append(number)
        self.counts.rows += len(block.rows)
        rows = [block.rows[number][0] for number in right]
        names = self.answered
        for row in rows:
            if taken := [name for name in names if name in row]:
                raise ValueError(
                    f"{row[ORIGIN]}: the input has a column '{taken[0]}' already. Set prefix=…, such as "
                    "prefix=predicted_, which goes before the names of the answers."
                )
        self.writer.see(rows, names)
        return right

    def find_columns(self, block: Block) -> None:
        """Find the columns that the model reads, in the first rows."""
        split = Dataset(table_from_rows([row for row, problem in block.rows if not problem]))
        given = trained_columns(self.record, self.arguments.columns(), split.column_names)
        self.columns, notes = self.kind.columns(split, **given)
        named = ", ".join(f"{name} '{column}'" for name, column in self.columns.items())
        for note in filter(None, [self.source.guess, f"Columns read: {named}.", *notes]):
            self.tell(note)

    @property
    def answered(self) -> list[str]:
        """The names of the answers that are written."""
        names = self.kind.answered("tokens" in self.columns)
        on_request = {"probabilities": self.arguments.probabilities, "words": self.arguments.word_times}
        names = [name for name in names if on_request.get(name, True)]
        return [self.arguments.prefix + name for name in names]

    def mistake(self, row: Row) -> str:
        """Return what is wrong with a row, and where, or nothing."""
        name, message = self.kind.mistake(self.model_row(row))
        if f"{row[ORIGIN]}: " in message:  # a file of a folder, which names itself
            return message
        return f"{row[ORIGIN]}: column '{self.columns[name]}': {message}" if message else ""

    def model_row(self, row: Row) -> Row:
        """Return what the model reads of a row."""
        read = {name: row.get(column) for name, column in self.columns.items()}
        return {**read, **{name: row[name] for name in self.kind.details if name in row and name not in read}}

    def answer(self, block: Block, target: IO[bytes]) -> None:
        """Answer the rows of a block and write them."""
        right = self.look(block)
        rows = [block.rows[number][0] for number in right]
        answers = self.predictor.answers([self.model_row(row) for row in rows])
        table = block.table if block.table is None or len(right) == len(block.rows) else block.table.take(right)
        if self.arguments.prints and rows and not self.printed:
            target.write(self.writer.head())
        self.printed = self.printed or bool(rows)
        self.writer.block(rows, [self.written(answer) for answer in answers], table, target)

    def written(self, answer: Row) -> Row:
        """Return an answer as it stands in a file."""
        least, probability = self.arguments.abstain, answer.get("probability")
        if least is not None and probability is not None and probability < least:
            answer = self.kind.abstained(answer)
        names = self.answered
        prefix = len(self.arguments.prefix)
        return {name: rounded(answer[name[prefix:]]) for name in names}

    def finish(self, parts: Path) -> None:
        """Put the blocks of all processes together, on the main one, and give the output its name."""
        state = self.state
        if self.counts.skipped == self.counts.rows:
            trouble = f"all rows are bad: {'; '.join(self.counts.bad)}" if self.counts.rows else "it has no rows"
            raise ValueError(f"input={self.arguments.input or self.arguments.dataset!r}: {trouble}.")
        shards = [shard_of(parts, number) for number in range(self.blocks)]
        if state.is_main_process:
            while any(not shard.is_file() for shard in shards):
                time.sleep(0.2)  # of another process; the launcher ends this one if that is gone
            output = Path(self.arguments.output)
            whole = parts / f"whole{''.join(output.suffixes)}"
            with whole_or_nothing(whole) as side:
                self.writer.join(shards, side)
            whole.replace(output)
            sync_folder(output.absolute().parent)
            delete(parts)
        while parts.exists():
            time.sleep(0.2)

    def ending(self) -> str:
        """Return what is said in the end."""
        target = "the standard output" if self.arguments.prints else self.arguments.output
        return f"{self.counts.in_words(target)}{self.expected}"


def shard_of(parts: Path, number: int) -> Path:
    """Return the file of a block."""
    return parts / f"{number:08d}"


def rounded(value: Any) -> Any:
    """Return an answer with its probabilities in so many digits as a file holds."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value
