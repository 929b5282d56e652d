"""Measuring a model: likelihoods with units and errors, and pictures of samples."""
