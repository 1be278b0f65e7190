"""Models whose weights are in the key-value store (tfos.kv): --strategy kv, and tables without a
number of rows under single.

The chief cuts an epoch into units and hands them out (coordinator); each worker runs its own loop
over the steps of a unit (worker, program): it pulls what a step reads, makes the step as a graph,
and pushes the gradients to the servers, whose optimizers apply them.
"""
