"""Text2Video: films from a sentence with ModelScope text2video and its family."""

__version__ = "0.1.0"
