"""Readers of the files that other programs write; `formats.py` names them all."""
