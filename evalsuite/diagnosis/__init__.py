"""Why a number does not reproduce: cheap probes, each for one cause, ranked by their evidence."""
