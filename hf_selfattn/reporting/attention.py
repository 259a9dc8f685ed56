"""What the heads of a model looked at, on a few rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..inference.predictor import Predictor, open_predictor
from ..metrics.inputs import Array
from .blocks import Block, Example, Examples, Passage, Section, Table, Text, Word, in_digits
from .errors import answer_of, row_losses
from .media.pictures import as_picture, laid_over, seen_by_model
from .runs import FinishedRun

SHOWN_ROWS = 4
MOST_TOKENS = 200
TITLE = "What the heads looked at"


def looked_at(run: FinishedRun) -> Section | None:
    """Return the weights of the attentions in the sum, and the tokens of some rows by weight and by group."""
    if not run.options.look_inside:
        return None
    try:
        predictor = open_predictor(run.folder, device="cpu", dtype="float32", backbone_name_or_path=backbone_of(run))
    except (ValueError, OSError) as error:
        return Section("heads", TITLE, [Text(f"The model could not be opened: {str(error).splitlines()[0]}")])
    predictor.model.set_attn_implementation("eager")
    blocks: list[Block] = list(weight_tables(predictor))
    if run.missing or run.problem == "object_detection" or run.medium == "sound":
        return Section("heads", TITLE, blocks) if blocks else None
    examples = [looked_at_row(run, predictor, row) for row in chosen_rows(run)]
    heads = predictor.config.num_grouped_attention_heads
    if run.medium == "image":
        said = "Shown is what the model reads of an image, as its processor resizes and crops it."
        return Section("heads", TITLE, [*blocks, Text(said), Examples("", examples)])
    said = (
        f"Tokens of a group have one colour; groups are those of the first of {heads} heads, in the last head layer. "
        f"Long texts are shown up to their {MOST_TOKENS}th token."
    )
    return Section("heads", TITLE, [*blocks, Text(said), Examples("", examples)])


def backbone_of(run: FinishedRun) -> str | None:
    """Return the folder of the backbone of an adapter, which does not keep it."""
    given = run.results["arguments"]
    is_folder = given.get("save") == "adapter" and Path(given["model"]).is_dir()
    return str(given["model"]) if is_folder else None


def weight_tables(predictor: Predictor) -> list[Block]:
    """Return what the sums weigh: the attentions of each head layer, and the layers of the backbone."""
    heads = predictor.model.base_model.heads
    rows = [
        [f"head layer {place}", *(in_digits(weight) for weight in layer.fusion_weight.tolist())]
        for place, layer in enumerate(heads.layers, start=1)
    ]
    tables = [Table("Weights in the sum x + w₁ · a + w₂ · g", ["", "self-attention", "grouped attention"], rows)]
    if heads.layer_weight is not None:
        weights = heads.layer_weight.tolist()
        layers = [[f"{len(weights) - place} from the top", in_digits(weight)] for place, weight in enumerate(weights)]
        tables.append(Table("Weights of the backbone's layers", ["layer", "weight"], layers))
    return [table for table in tables if table.rows]


def chosen_rows(run: FinishedRun) -> list[int]:
    """Return the rows that are shown: of a tagger those with most entities, otherwise the best and the worst."""
    if run.problem == "named_entities":
        counts = [sum(tag.startswith("B-") for tag in answer["reference"]) for answer in run.answers]
        return [int(row) for row in np.argsort(-np.array(counts), kind="stable")[:SHOWN_ROWS]]
    order = np.argsort(row_losses(run)[0], kind="stable")
    half = SHOWN_ROWS // 2
    return [int(row) for row in dict.fromkeys([*order[:half], *order[::-1][:half]])]


def looked_at_row(run: FinishedRun, predictor: Predictor, row: int) -> Example:
    """Return a row of the data with what the heads made of its tokens, or of the parts of an image."""
    if run.medium == "image":
        return looked_at_image(run, predictor, row)
    text, pair = run.text_and_pair(row)
    encoded = predictor.processor(text, pair, return_tensors="pt", truncation=False, verbose=False)
    pieces = pieces_of(predictor.processor, encoded, [text, pair or ""])
    with torch.no_grad():
        found = predictor.model.base_model(**encoded, output_attentions=True, return_dict=True)
    passages = list[Passage]()
    facts: list[tuple[str, str]] = []
    if run.problem != "named_entities":
        facts = answer_of(run, row)
        passages += class_passages(run, predictor, row, found.last_hidden_state, pieces)
    if found.group_ids:
        groups = found.group_ids[-1][0, 0].tolist()
        words = [Word(piece, group=groups[token], title=f"group {groups[token]}") for token, piece in pieces]
        passages.append(Passage(f"groups ({len(set(groups))} in this text)", spaced(words)))
    return Example(run.place(row), facts, passages)


def looked_at_image(run: FinishedRun, predictor: Predictor, row: int) -> Example:
    """Return an image coloured by what the answered class's query weighs, and by what speaks for and against it."""
    encoded = predictor.kind.encode([{"image": run.rows[row]["image"]}])
    batch, base = predictor.kind.batch(encoded, [0]), predictor.model.base_model
    with torch.no_grad():
        found = base.backbone_features(**batch)
        features = base(**batch, return_dict=True).last_hidden_state
    shown = seen_by_model(batch["pixel_values"][0].numpy(), predictor.processor)
    pictures = [as_picture(shown, run.place(row), "as it is read")]
    for told, shares, _ in class_weights(run, predictor, row, features):
        of_map = shares[found.num_prefix_tokens :].reshape(found.map_size)
        pictures.append(as_picture(laid_over(shown, of_map), told, told))
    return Example(run.place(row), answer_of(run, row), [], pictures=pictures)


def class_passages(run: FinishedRun, predictor: Predictor, row: int, features: Any, pieces: Any) -> list[Passage]:
    """Return the tokens by the weight of the answered class's query, and by what they add to its logit."""
    found = class_weights(run, predictor, row, features)
    return [Passage(told, weighted(pieces, shares, values)) for told, shares, values in found]


def class_weights(
    run: FinishedRun, predictor: Predictor, row: int, features: Any
) -> Iterator[tuple[str, Array, Array]]:
    """Yield what the places of a row mean for the answered class: in words, as shares from -1 to 1, and as numbers.

    Args:
        features: (1, T, D) of the heads.
    """
    classifier = predictor.model.classifier
    answered = int(np.argmax(np.atleast_1d(run.predictions.outputs[row])))
    name, what = run.label_names[answered], "part" if run.medium == "image" else "token"
    with torch.no_grad():
        if predictor.config.pooling == "class_query":
            times = classifier.attention(features)[0, answered].numpy() * features.shape[1]
            told = f"read by the query of “{name}”, {times.min():.2f} to {times.max():.2f} times the mean weight"
            yield told, np.clip((times - 1) / 2, 0, 1), times
        added = classifier.contributions(features)[0].numpy()
    if predictor.config.pooling == "cls":
        return
    # Only differences between classes decide, and what all places share says nothing of one of them.
    added = added[answered] - (added.mean(axis=0) if run.problem in ("single_label_classification", "ordinal") else 0)
    added = added - added.mean()
    yield (
        f"for (blue) and against (orange) “{name}”, beside the mean {what}",
        added / max(np.abs(added).max(), 1e-12),
        added,
    )


def weighted(pieces: list[tuple[int, str]], shares: Array, values: Array) -> list[Word]:
    """Return tokens coloured by a share from -1 to 1, the value told where the pointer rests."""
    return spaced([Word(piece, float(shares[token]), title=f"{values[token]:.2g}") for token, piece in pieces])


def spaced(words: list[Word]) -> list[Word]:
    """Return words with the blanks that they begin with apart, uncoloured."""
    shown = []
    for word in words:
        blank = word.text[: len(word.text) - len(word.text.lstrip())]
        shown += [Word(" ")] * bool(blank) + [word._replace(text=word.text[len(blank) :])]
    return shown


def pieces_of(tokenizer: Any, encoded: Any, texts: list[str]) -> list[tuple[int, str]]:
    """Return number and text of each token that shows something, with the blanks before it."""
    ids = encoded["input_ids"][0].tolist()[:MOST_TOKENS]
    if not tokenizer.is_fast:
        return [(place, f" {token}") for place, token in enumerate(tokenizer.convert_ids_to_tokens(ids))]
    pieces, before = [], [0, 0]
    for place in range(len(ids)):
        of_text, span = encoded.token_to_sequence(place), encoded.token_to_chars(place)
        if of_text is None or span is None or span.end <= before[of_text]:
            continue
        pieces.append((place, texts[of_text][before[of_text] : span.end]))
        before[of_text] = span.end
    return pieces
