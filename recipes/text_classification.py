"""Tune a text classifier with self-attention and grouped-attention heads on any encoder.

python recipes/text_classification.py recipes/configs/r8.yaml
python recipes/text_classification.py model=MODEL train=reviews.csv output_dir=runs/reviews
accelerate launch recipes/text_classification.py recipes/configs/r8.yaml
"""

from __future__ import annotations

import sys

from hf_selfattn.arguments import parse_arguments
from hf_selfattn.training.faults import faults_explained
from hf_selfattn.training.run import run


def main() -> None:
    with faults_explained():
        run(parse_arguments(sys.argv[1:]))


if __name__ == "__main__":
    main()
