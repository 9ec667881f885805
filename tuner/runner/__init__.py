"""Runs managed studies on Ray: prepares them, trains their trials, publishes winners.

    runner.py      finds studies, and owns everything below
    managed.py     one study: prepared, its slots, its winner
    slot.py        trials, one after another: leased, trained, completed
    pool.py        shares the CPUs between slots, keeps gangs warm
    gang.py        the Ray actors that train one trial together
    worker.py      one of these actors, in its own process
    cluster.py     Ray itself

Threads wait, processes compute. Nothing here opens the database.
"""
