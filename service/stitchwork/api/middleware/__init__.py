"""What every request passes: request context, authentication, body limits."""
