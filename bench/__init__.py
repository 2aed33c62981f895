"""The same workloads for fastinc and its peers, in one process: ``python -m bench --help``, from the clone's root.

==================  ============================================================================================
``core.py``         what a workload is made of: settings, contestants, cases, results
``race.py``         checks contestants, then runs them in turns
``caches.py``       rows cold and inputs warm when a clock starts, for everybody alike
``pages.py``        huge pages for everybody alike
``inputs.py``       random ids and gradients
``reference.py``    the optimizers in float64: what an answer must agree with
``peers.py``        torch and FBGEMM, or why they are missing
``limit.cpp``       what the memory can do: the rows alone, in the order they come
``machine.py``      where the figures were made
``report.py``       tables, JSON, plots
``readme.py``       the table of goals in the README
``gpu/``            what workloads on a GPU share
``workloads/``      one file a topic; a new one registers itself with `core.workload`
``NOTES.md``        what was tried, and what the figures said
==================  ============================================================================================
"""
