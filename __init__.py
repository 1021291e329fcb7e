"""stt2v: long videos from StreamingSVD and StreamingT2V, compiled."""

__version__ = "0.1.0"
