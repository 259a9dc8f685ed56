"""DocBin files of spaCy (.spacy), through spaCy itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .annotations import classes_of
from .rows import ORIGIN, Reading, ReadRow


def docbin_rows(stream: IO[bytes], path: Path, reading: Reading) -> Iterator[ReadRow]:
    """Yield the documents with their entities (or, without any, their only group of spans) and classes."""
    try:
        import spacy
        from spacy.tokens import DocBin
    except ImportError as error:
        raise ValueError(f"{path}: DocBin files need spaCy: pip install spacy; or export JSONL.") from error
    try:
        docs = list(DocBin().from_bytes(stream.read()).get_docs(spacy.blank("xx").vocab))
    except ValueError as error:
        raise ValueError(f"{path}: the file is damaged or no DocBin: {error}") from error
    has_entities = any(doc.ents for doc in docs)
    several = any(len(classes_of(doc.cats)) > 1 for doc in docs)
    counts = Counter({"documents": len(docs), "spans": 0})
    for index, doc in enumerate(docs):
        groups = list(doc.spans.values())
        found = doc.ents if has_entities or len(groups) != 1 else groups[0]
        spans = [{"start": span.start_char, "end": span.end_char, "label": span.label_} for span in found]
        counts["spans"] += len(spans)
        row = {"text": doc.text, "spans": spans, ORIGIN: f"{path}[{index}]"}
        if doc.cats:
            classes = classes_of(doc.cats)
            row["label"] = classes if several else classes[0] if classes else None
        yield row, ""
    reading.count("a spaCy DocBin", counts)
