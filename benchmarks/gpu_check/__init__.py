"""The first 30 minutes on a GPU: python -m benchmarks.gpu_check {1,2,3}, each at most ten minutes.

docs/gpu.md says what is needed and what passes. An item is a process of its own with a budget of
seconds; what it measures is in OUTPUT/ITEM.json from the moment that it is measured, its traceback
too if it fails, and the next item follows. ``items`` lists them, ``harness`` runs them.
"""
