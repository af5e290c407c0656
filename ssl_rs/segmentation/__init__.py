"""Segmentation: the network, its augmentation, whole-scene prediction and its scores."""
