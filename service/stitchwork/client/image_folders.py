"""Image files in folders."""

from typing import Final

IMAGE_SUFFIXES: Final = (
    ".avif",
    ".bmp",
    ".gif",
    ".heic",
    ".heif",
    ".jpeg",
    ".jpg",
    ".png",
    ".tif",
    ".tiff",
    ".webp",
)
"""How names of files end that are taken for images."""
