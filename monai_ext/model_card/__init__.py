"""The model card of a trained run: `docs/README.md`, made from what the run itself has recorded."""
