"""Train on movie-review sentences, open the saved model again, let it answer, report: the script of `make demo`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_selfattn import ReportArguments, TextClassificationArguments, parse_arguments, report, run
from hf_selfattn.hub.summary import with_interval


def main() -> None:
    arguments = parse_arguments(["recipes/configs/demo.yaml", *sys.argv[1:]], TextClassificationArguments)
    results = run(arguments)

    model = AutoModelForSequenceClassification.from_pretrained(arguments.output_dir)
    tokenizer = AutoTokenizer.from_pretrained(arguments.output_dir)
    classify = pipeline("text-classification", model=arguments.output_dir)
    print(f"\nReopened {arguments.output_dir}: {type(model).__name__}, labels {model.config.id2label}.")
    for text in example_texts(arguments.test):
        answer = classify(text)[0]
        length = len(tokenizer(text, verbose=False)["input_ids"])
        print(f"  {answer['label']} ({answer['score']:.2f})  {length} tokens: {text[:70]!r}…")

    test, baseline = results["splits"]["test"], results["baseline"]["tfidf"]["splits"]["test"]
    print(f"\nTest accuracy {with_interval(test['scores']['accuracy'])} on {test['rows']} sentences;")
    print(f"TF-IDF with logistic regression {with_interval(baseline['scores']['accuracy'])}.")
    print("\nThe report of the run, a page to open in a browser:")
    report(ReportArguments(runs=[arguments.output_dir]))


def example_texts(test_file: str) -> list[str]:
    """Two short reviews, and a long one: every negative sentence of the test file in one text, up to 2,500 words."""
    rows = [json.loads(line) for line in Path(test_file).read_text(encoding="utf-8").splitlines()]
    negative = " ".join(row["text"] for row in rows if row["label"] == "negative")
    return [
        "A warm, funny and beautifully acted film that stays with you.",
        "The plot makes no sense and the jokes are painful.",
        " ".join(negative.split()[:2500]),
    ]


if __name__ == "__main__":
    main()
