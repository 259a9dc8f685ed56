"""Tune a recogniser of speech by CTC, with our heads on any backbone that reads sound.

python recipes/speech_recognition.py model=MODEL train=prompts.csv output_dir=runs/prompts
python recipes/speech_recognition.py model=MODEL train=prompts.csv tuning=probe case=lower output_dir=runs/prompts
python recipes/speech_recognition.py model=MODEL train=prompts.csv group_column=speaker output_dir=runs/prompts
accelerate launch recipes/speech_recognition.py model=MODEL train=prompts.csv output_dir=runs/prompts
"""

import sys

from hf_selfattn import SpeechRecognitionArguments, faults_explained, parse_arguments, run

if __name__ == "__main__":
    with faults_explained():
        run(parse_arguments(sys.argv[1:], SpeechRecognitionArguments))
