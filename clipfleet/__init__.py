"""clipfleet turns large corpora of images and texts into CLIP vectors.

This package holds the contracts that the other folders share (messages, model
cards, architectures, settings, errors) and the command line. It imports none of
its siblings at import time.
"""

__version__ = "0.1.0"
