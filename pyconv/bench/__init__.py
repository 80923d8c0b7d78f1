"""`pyconv bench`: check each result, then time it; beside a peer where one is installed.

    cli.py         the command line
    layers.py      pyconv bench layers: a table of layers
    threads.py     pyconv bench threads: how they scale
    predict.py     how they would on more threads than there are
    measure.py     one layer in one direction: check, then time in turns with the peers
    problem.py     its input values and the call of pyconv
    reference.py   what the result must be, by NumPy in float64
    peer.py        starts a peer's process and talks with it
    peer_*.py      run there: peer_protocol.py answers, peer_torch.py and peer_ncnn.py compute
    shapes.py      reads shapes.toml, the one table of shapes (the tests read it too)
    machine.py     the CPU, the compiler, the FMA peak
    plot.py        pictures
"""
