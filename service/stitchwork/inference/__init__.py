"""The pipeline: resolve, embed, translate, classify; independent of HTTP and torch."""
