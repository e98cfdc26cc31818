"""How many samples each rung has where nobody says."""

FIRST_RUNGS = (2000, 8000)
"""Before the last one; a quarter of that where it is too small for both."""


def default_rungs(last: int, fewest: int | None) -> tuple[int, ...]:
    """Rungs of a sweep that may drop configurations, none above half of the last.

    Args:
        last: samples of the last rung.
        fewest: samples from which on a rung may drop anybody; None leaves the last rung alone.

    >>> default_rungs(50000, 1024), default_rungs(2000, 32), default_rungs(1000, 1024)
    ((2000, 8000, 50000), (500, 2000), (1000,))
    """
    if fewest is None:
        return (last,)
    rungs = sorted({max(rung, fewest) for rung in FIRST_RUNGS})
    if rungs[0] > last // 2:
        rungs = [max(last // 4, fewest)]
    return (*(rung for rung in rungs if rung <= last // 2), last)
