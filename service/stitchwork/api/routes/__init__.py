"""One file per resource or verb."""
