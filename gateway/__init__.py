"""A streaming gateway between clients and any OpenAI-compatible upstream."""

__version__ = "0.1.0"
