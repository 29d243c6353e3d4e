"""Convolutions, pooling and norms with a lowering for each platform, differentiable any number of
times.
"""
