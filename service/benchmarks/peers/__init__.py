"""The same work on other programs: scripts that interpreters run which have those, not ours."""
