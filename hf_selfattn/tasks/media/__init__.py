"""Rows that are files, images or sounds: opened when they are read, answered by a model."""
