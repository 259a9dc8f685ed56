"""Tune a text classifier with self-attention and grouped-attention heads on any encoder.

python recipes/text_classification.py recipes/configs/r8.yaml
python recipes/text_classification.py model=MODEL train=reviews.csv output_dir=runs/reviews
accelerate launch recipes/text_classification.py recipes/configs/r8.yaml
"""

import sys

from hf_selfattn import TextClassificationArguments, faults_explained, parse_arguments, run

if __name__ == "__main__":
    with faults_explained():
        run(parse_arguments(sys.argv[1:], TextClassificationArguments))
