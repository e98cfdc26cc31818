"""Inception-2015-12-05 in torch: the network behind FID as ADM's evaluator computes it."""
