"""A rehearsal of the GPU without one: python -m benchmarks.rehearsal

Tensors that say they are on cuda, and compute on the CPU, go through pairs of updates and note what
a GPU would have to do: wait for the host, move bytes, launch kernels (``fakecuda``, ``counts``).
"""
