"""What workloads on a GPU share: ``python -m bench gpu``, or ``--device cpu`` to see that they run.

================  ==============================================================================================
``device.py``     torch on a device, and the clock of work there
``draws.py``      random ids and gradients, made where they are used
``contest.py``    contestants on a device, the copy that they are held against, goals
``updaters.py``   contestants that update the rows of arrays
``run.py``        all workloads in one file of results, with a table of goals
================  ==============================================================================================

The workloads themselves are ``bench/workloads/gpu_*.py``.
"""
