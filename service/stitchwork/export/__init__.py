"""Maps and heads as files that are applied without the service."""
