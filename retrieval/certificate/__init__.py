"""The certificate of an index: its recall and its latency, measured."""
