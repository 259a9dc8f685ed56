"""Tune a sentiment model: polarity classes, star ratings in their order, or valence; tested on further domains.

python recipes/sentiment.py recipes/configs/movies-polarity.yaml
python recipes/sentiment.py model=MODEL train=rated.csv label_column=valence neutral_band=0.5 output_dir=runs/polarity
python recipes/sentiment.py model=MODEL train=stars.csv problem=ordinal lexicon=false output_dir=runs/stars
accelerate launch recipes/sentiment.py recipes/configs/movies-valence.yaml
"""

from __future__ import annotations

import sys

from hf_selfattn.arguments import parse_arguments
from hf_selfattn.faults import faults_explained
from hf_selfattn.training import run


def main() -> None:
    with faults_explained():
        run(parse_arguments(["lexicon=true", *sys.argv[1:]]))  # the lexicon answers beside the model


if __name__ == "__main__":
    main()
