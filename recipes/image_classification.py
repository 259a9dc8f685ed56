"""Tune a classifier of images with self-attention and grouped-attention heads on any backbone that reads pixels.

python recipes/image_classification.py model=MODEL train=photos output_dir=runs/photos
python recipes/image_classification.py model=MODEL train=labels.csv tuning=probe output_dir=runs/photos
python recipes/image_classification.py model=MODEL dataset=photos heads.tiles=true output_dir=runs/photos
accelerate launch recipes/image_classification.py model=MODEL train=photos output_dir=runs/photos
"""

import sys

from hf_selfattn import ImageClassificationArguments, faults_explained, parse_arguments, run

if __name__ == "__main__":
    with faults_explained():
        run(parse_arguments(sys.argv[1:], ImageClassificationArguments))
