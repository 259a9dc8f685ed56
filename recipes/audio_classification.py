"""Tune a classifier of sounds with self-attention and grouped-attention heads on any backbone that reads sound.

python recipes/audio_classification.py model=MODEL train=calls output_dir=runs/calls
python recipes/audio_classification.py model=MODEL train=labels.csv tuning=probe output_dir=runs/calls
python recipes/audio_classification.py model=MODEL train=labels.csv group_column=speaker output_dir=runs/calls
accelerate launch recipes/audio_classification.py model=MODEL train=calls output_dir=runs/calls
"""

import sys

from hf_selfattn import AudioClassificationArguments, faults_explained, parse_arguments, run

if __name__ == "__main__":
    with faults_explained():
        run(parse_arguments(sys.argv[1:], AudioClassificationArguments))
