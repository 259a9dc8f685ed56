"""Tune a tagger of named entities with self-attention and grouped-attention heads on any encoder.

python recipes/ner.py recipes/configs/conll2003-sentence.yaml
python recipes/ner.py model=MODEL train=train.conll test=test.conll context=document output_dir=runs/entities
python recipes/ner.py model=MODEL train=train.jsonl heads.decoding=crf tuning=full output_dir=runs/entities
accelerate launch recipes/ner.py recipes/configs/conll2003-document.yaml
"""

import sys

from hf_selfattn import NerArguments, faults_explained, parse_arguments, run

if __name__ == "__main__":
    with faults_explained():
        run(parse_arguments(sys.argv[1:], NerArguments))
