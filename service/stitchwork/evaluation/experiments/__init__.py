"""The experiments of an evaluation, each a function from a study to a JSON result."""
