"""A worker process: takes batches of jobs, runs models, and completes registrations."""
