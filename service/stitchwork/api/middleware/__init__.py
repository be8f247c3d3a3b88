"""Middleware of every request: telemetry, authentication, body limits, HEAD."""
