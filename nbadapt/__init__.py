"""Adapt a pretrained language model from a notebook cell, and see which way works for your data."""
