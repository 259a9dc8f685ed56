"""`tuning: auto`: candidates for the heads tried on kept features, then LoRA, and what did best on validation."""
