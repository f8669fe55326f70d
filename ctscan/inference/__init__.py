"""A slice to an answer: gate, prediction, certainty."""
