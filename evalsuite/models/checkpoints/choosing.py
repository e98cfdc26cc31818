"""Which of a checkpoint's groups of weights to take: chosen or refused, never guessed."""

from collections.abc import Sequence

from evalsuite.errors import UsageError
from evalsuite.models.checkpoints.grouping import decay_of, is_average, place_of
from evalsuite.models.checkpoints.reading import Checkpoint


def choose_group(checkpoint: Checkpoint, ema: str, default: str | None) -> str:
    """The group that `--ema` means in a checkpoint.

    Args:
        checkpoint: an opened checkpoint.
        ema: `auto`, `raw`, a group's name, or a decay such as `0.9999` that one name states.
        default: for `auto`, the group that a preset's published numbers are of. Another average
            is never taken in its place.

    Returns:
        A key of `checkpoint.groups`; "" where keys have no prefix.

    Raises:
        UsageError: no group fits, or several do.
    """
    groups = checkpoint.groups
    if ema == "auto":
        return default if default in groups else _automatic(checkpoint, default)
    if ema == "raw":
        return _raw(checkpoint)
    if ema in groups:
        return ema
    fitting = [group for group in groups if _states_decay(group, ema)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"--ema {ema} fits {', '.join(fitting)} of {checkpoint.path}: name one")
    raise UsageError(f"--ema {ema}: {checkpoint.path} holds no such weights: {_known(checkpoint)}")


def _automatic(checkpoint: Checkpoint, absent: str | None) -> str:
    averaged = [group for group in checkpoint.groups if is_average(group)]
    if len(averaged) == 1:
        if absent is not None and _is_prefix(absent):
            raise UsageError(
                f"{checkpoint.path} holds {averaged[0]}, not {absent} that the published numbers"
                f" are of: say --ema {averaged[0]}"
            )
        return averaged[0]
    if averaged:
        raise UsageError(
            f"{checkpoint.path} holds several averages of the weights: give --ema with one of"
            f" {_offered(averaged)}"
        )
    if checkpoint.unread_average:
        raise UsageError(
            f"{checkpoint.path} holds averaged weights ({checkpoint.unread_average}) in a form that"
            " is not read: --ema raw takes the raw ones"
        )
    if set(checkpoint.groups) == {""}:
        return ""
    raise UsageError(
        f"{checkpoint.path} holds no EMA weights; --ema raw takes the raw ones"
        f" ({_offered(_names(checkpoint))})"
    )


def _raw(checkpoint: Checkpoint) -> str:
    """The group that is no average, or is called `raw`.

    Keys without a prefix are what is left over beside a network's prefix; beside another state dict
    they are the main one, of which that is a copy.
    """
    raw = [group for group in checkpoint.groups if not is_average(group)]
    if "raw" in raw:
        return "raw"
    if "" in raw:
        raw = [group for group in raw if group and _is_prefix(group)] or [""]
    if len(raw) == 1:
        return raw[0]
    if raw:
        raise UsageError(
            f"{checkpoint.path} holds several sets of raw weights: give --ema with one of"
            f" {_offered(raw)}"
        )
    raise UsageError(
        f"--ema raw: {checkpoint.path} holds averaged weights only ({', '.join(checkpoint.groups)})"
    )


def _is_prefix(group: str) -> bool:
    """Whether a preset names a prefix of keys, and not merely what its one set of weights is."""
    return place_of(f"{group}.x").group == group


def _states_decay(group: str, text: str) -> bool:
    try:
        return decay_of(group) == float(text)
    except ValueError:
        return False


def _known(checkpoint: Checkpoint) -> str:
    """What `--ema` may say of a checkpoint; averages first."""
    if set(checkpoint.groups) == {""}:
        return "it has one set of weights, without a name: leave --ema out"
    named = sorted(filter(None, checkpoint.groups), key=lambda group: not is_average(group))
    return f"known: {_offered(named)}"


def _offered(groups: Sequence[str]) -> str:
    """Names that `--ema` takes: `auto` has a meaning of its own."""
    names = ", ".join(group for group in groups if group != "auto")
    if "auto" not in groups:
        return names
    return f"{names} (one is called auto, which no --ema names: save it under another name)"


def _names(checkpoint: Checkpoint) -> list[str]:
    return [group or "(no prefix)" for group in checkpoint.groups]
