"""From arguments to a trained model."""
