"""What a bundle says of itself: the evaluation report, the model card, the provenance."""
