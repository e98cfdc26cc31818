"""Sections of a run's report, one module each; `listed.SECTIONS` is their order on the page."""
