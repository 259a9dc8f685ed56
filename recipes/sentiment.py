"""Tune a sentiment model: polarity classes, star ratings in their order, or valence; tested on further domains.

python recipes/sentiment.py recipes/configs/movies-polarity.yaml
python recipes/sentiment.py model=MODEL train=rated.csv label_column=valence neutral_band=0.5 output_dir=runs/polarity
python recipes/sentiment.py model=MODEL train=stars.csv problem=ordinal lexicon=false output_dir=runs/stars
accelerate launch recipes/sentiment.py recipes/configs/movies-valence.yaml
"""

from __future__ import annotations

import sys

from hf_selfattn.arguments import parse_arguments
from hf_selfattn.training.faults import faults_explained
from hf_selfattn.training.run import run

# The lexicon answers beside the model. Features as they are, and their mean, hold best on texts of another domain.
DEFAULTS = ("lexicon=true", "standardise=false")
POOLING = "mean"


def main() -> None:
    with faults_explained():
        arguments = parse_arguments([*DEFAULTS, *sys.argv[1:]])
        arguments.heads.setdefault("pooling", POOLING)
        run(arguments)


if __name__ == "__main__":
    main()
