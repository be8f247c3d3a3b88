"""The registry: records of anchor sets, spaces, heads and API keys, which outlive a process."""
