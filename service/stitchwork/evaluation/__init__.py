"""The paper's experiments on the user's data and encoders: `stitchwork evaluate`."""
