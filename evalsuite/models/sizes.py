"""Checks that the configurations of several networks share."""

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def check_sizes(config: "DataclassInstance", *heads: tuple[str, str]) -> None:
    """Refuse numbers below 1 and widths that their attention heads cannot share.

    Args:
        config: numbers, or None where a field is optional.
        heads: names of a width and of its number of heads, for each attention; the width of a head
            must be a multiple of 4, as two-dimensional rotary pairs need.

    Raises:
        ValueError: a field is wrong; the message names it.
    """
    sizes = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1")
    for width, number in heads:
        if sizes[width] % sizes[number]:
            raise ValueError(f"{width} must be a multiple of {number}")
        if sizes[width] // sizes[number] % 4:
            raise ValueError(f"the head width, {width} / {number}, must be a multiple of 4")
