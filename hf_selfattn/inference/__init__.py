"""From a tuned model to answers: for rows in memory, for files of any size, and scored."""
