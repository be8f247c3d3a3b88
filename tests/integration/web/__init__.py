"""The pages for browsers, in Chromium."""
