"""The head pipeline for one image, a function per step, with the indices and loops that MMDetection uses.

The book walks through these; training uses :mod:`minirtmdet.head`, and tests prove that both agree.
"""
