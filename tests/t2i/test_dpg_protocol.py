"""What of a text counts for the pin of DPG-Bench's prompts."""

from evalsuite.pipeline.dpg_protocol import prompts_sha256


def test_blanks_quotes_and_accents_of_prompts_do_not_count() -> None:
    words = prompts_sha256([("1", 'Zoe\'s cafe, the "Rose"'), ("2", "two")])
    for text in (
        "Zoë’s  café, the “Rose”",
        "ZOE\N{COMBINING DIAERESIS}S cafe\n the 'Rose'",
        "zoes cafe the rose",
        "Zoe\N{ACUTE ACCENT}s cafe: the \N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}Rose",
    ):
        assert prompts_sha256([("2", "two"), ("1", text)]) == words
    for text in ("Zoe s cafe, the Rose", "Zoes cafe, the Nose", "Zoes cafe, the Rose 1"):
        assert prompts_sha256([("1", text), ("2", "two")]) != words
