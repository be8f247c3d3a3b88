"""Work for the models: plain Redis streams, one per encoder, each job answered exactly once."""
