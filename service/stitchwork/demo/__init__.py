"""The demo: real encoders stitched to each other's heads."""
