"""Pretraining: objectives, the module, callbacks, monitors, the run."""
