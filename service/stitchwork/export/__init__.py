"""Maps and heads as files that need no service."""
