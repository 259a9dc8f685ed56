"""What leaves the machine: models, cards, pushes, graphs."""
