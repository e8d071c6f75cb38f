"""Speed of a model on this machine: synthetic models of known shapes, measuring, the report.

``jang bench`` is the command over it; ``bench/`` in the source tree compares with other programs.
"""
