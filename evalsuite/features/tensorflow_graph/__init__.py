"""ADM's own graph under TensorFlow, in a process of its own: the reference implementation.

TensorFlow and torch must not share a process: importing what torch brings after TensorFlow aborts
it. `client` is what the rest of evalsuite uses, `server` is the other process, and `protocol` is
what passes between them.
"""
