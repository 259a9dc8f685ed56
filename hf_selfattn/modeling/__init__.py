"""The model code that travels with a checkpoint: one flat folder whose files import only one another."""
