"""Convolutions, pooling and norms with a lowering for each platform.

They are differentiable any number of times.
"""
