"""Tune a tagger of named entities with self-attention and grouped-attention heads on any encoder.

python recipes/ner.py recipes/configs/conll2003-sentence.yaml
python recipes/ner.py model=MODEL train=train.conll test=test.conll context=document output_dir=runs/entities
python recipes/ner.py model=MODEL train=train.jsonl heads.decoding=crf tuning=full output_dir=runs/entities
accelerate launch recipes/ner.py recipes/configs/conll2003-document.yaml
"""

from __future__ import annotations

import sys

from hf_selfattn.arguments import NerArguments, parse_arguments
from hf_selfattn.training.faults import faults_explained
from hf_selfattn.training.run import run


def main() -> None:
    with faults_explained():
        run(parse_arguments(sys.argv[1:], kind=NerArguments))


if __name__ == "__main__":
    main()
