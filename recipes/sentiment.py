"""Tune a sentiment model: polarity classes, star ratings in their order, or valence; tested on further domains.

python recipes/sentiment.py recipes/configs/movies-polarity.yaml
python recipes/sentiment.py model=MODEL train=rated.csv label_column=valence neutral_band=0.5 output_dir=runs/polarity
python recipes/sentiment.py model=MODEL train=stars.csv problem=ordinal output_dir=runs/stars
accelerate launch recipes/sentiment.py recipes/configs/movies-valence.yaml
"""

import sys

from hf_selfattn import SentimentArguments, faults_explained, parse_arguments, run

if __name__ == "__main__":
    with faults_explained():
        run(parse_arguments(sys.argv[1:], SentimentArguments))
