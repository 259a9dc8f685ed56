"""What a row means, one file a task."""
