"""Text to image: GenEval and DPG-Bench, their prompts, rules, questions and aggregation."""
