"""Tune a detector with attention over the regions of an image on any backbone that reads pixels.

python recipes/object_detection.py model=MODEL dataset=birds output_dir=runs/birds
python recipes/object_detection.py model=MODEL train=train.json test=test.json image_folder=images output_dir=runs/b
accelerate launch recipes/object_detection.py model=MODEL dataset=birds output_dir=runs/birds
"""

import sys

from hf_selfattn import ObjectDetectionArguments, faults_explained, parse_arguments, run

if __name__ == "__main__":
    with faults_explained():
        run(parse_arguments(sys.argv[1:], ObjectDetectionArguments))
