"""Where a result comes from: data, settings and machine."""

from __future__ import annotations

from ..hub.card import data_name, machine_rows, shown_settings
from ..hub.sanitize import last_part, one_line, without_secrets
from ..hub.summary import story
from .blocks import Block, Section, Table, Text, in_digits
from .runs import FinishedRun

ELSEWHERE = ("options", "label_names")


def data_section(run: FinishedRun) -> Section:
    """Return the splits, the labels and what was noted of them."""
    given, results = run.results["arguments"], run.results
    train = results.get("train", {})
    splits = [("train", train), *results["splits"].items()]
    rows = [
        [
            last_part(name),
            one_line(data_name(given, name)),
            in_digits(split.get("rows")),
            (split.get("fingerprint") or "")[:12],
        ]
        for name, split in splits
    ]
    blocks: list[Block] = [Table("Splits", ["split", "data", "rows", "fingerprint"], rows, numeric=False)]
    if counts := train.get("labels"):
        what = {"named_entities": "entities", "object_detection": "boxes"}.get(run.problem, "rows")
        total = sum(counts.values())
        labels = [[name, in_digits(count), f"{100 * count / max(1, total):.1f} %"] for name, count in counts.items()]
        blocks.append(Table("Labels of train", ["label", what, "share"], labels))
    blocks += [Text(one_line(note)) for note in results.get("notes", [])]
    return Section("data", "Data", blocks)


def settings_section(run: FinishedRun) -> Section:
    """Return the arguments of the run, its machine and its time."""
    given, results = run.results["arguments"], run.results
    listed = {key: value for key, value in given.items() if key not in ELSEWHERE}
    chosen = without_secrets({**listed, **(given.get("options") or {}), "seed": results.get("seed")})
    arguments = [[key, value] for key, value in shown_settings(chosen, shown=shown_value)]
    machine = [[key, one_line(value)] for key, value in machine_rows(results)]
    count = results["parameters"]
    said = f"{count['trainable']:,} of {count['all']:,} parameters trained. {story(results.get('run_state'))}"
    blocks: list[Block] = [
        Text(said.strip()),
        Table("Arguments that have a value", ["argument", "value"], arguments, numeric=False),
        Table("Machine and time", ["", ""], machine, numeric=False),
    ]
    return Section("settings", "Settings", blocks)


def shown_value(value: object) -> str:
    """Return the value of an argument on one line, of a path the last part."""
    return one_line(last_part(str(value)))
