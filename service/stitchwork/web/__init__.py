"""Pages for browsers: what the service does at `/`, and its documentation at `/guide`."""
