"""What the project measures: quality (scores of trained models), speed, and the peers that both compare with."""
