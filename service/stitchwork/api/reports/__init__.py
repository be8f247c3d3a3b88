"""Reports on spaces, pairs and heads."""
