"""The pipeline: resolve, embed, translate, classify; it knows no web and no torch."""
